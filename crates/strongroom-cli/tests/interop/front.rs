//! The public cloud as the peers see it: a proxy whose every host is the local provider.
//!
//! What a language finds depends on the host, which most of them store under another name than the one that they are
//! configured with. So they all sign in at the public cloud's names; the answers come from the provider. A user's
//! sign-in, which the provider does not offer, is answered here.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;
use strongroom_sts::{Ready, RunningSts};

/// The host that programs are configured with, and the other names of the same cloud.
pub const HOST: &str = "login.microsoftonline.com";
const OTHER_NAMES: [&str; 3] = ["login.windows.net", "login.microsoft.com", "sts.windows.net"];

/// How long a connection may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Front {
    port: u16,
    /// What has to be trusted.
    pub ca_file: PathBuf,
    /// As the provider's own, with the public cloud's host.
    pub config_file: PathBuf,
    pub tenant: String,
    pub client_id: String,
    client_secret: String,
    ending: Arc<AtomicBool>,
    accepting: Option<JoinHandle<()>>,
}

impl Front {
    pub fn start(folder: &Path, sts: &RunningSts) -> Self {
        let folder = folder.join("front");
        std::fs::create_dir(&folder).unwrap();
        let (certificate, key, ca) = certificates();
        let ca_file = folder.join("ca.pem");
        std::fs::write(&ca_file, ca).unwrap();

        let ready = sts.ready();
        let config_file = folder.join("config.json");
        let mut config: serde_json::Value =
            serde_json::from_slice(&std::fs::read(&ready.config_file).unwrap()).unwrap();
        config["authority"] = format!("https://{HOST}/{}", ready.tenant).into();
        config.as_object_mut().unwrap().remove("instance_discovery");
        config.as_object_mut().unwrap().remove("known_authorities");
        std::fs::write(&config_file, config.to_string()).unwrap();

        let behind = Arc::new(Behind::new(ready, certificate, key));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let ending = Arc::new(AtomicBool::new(false));
        let told = ending.clone();
        let accepting = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if told.load(Ordering::SeqCst) {
                    return;
                }
                let connection = connection.unwrap();
                let behind = behind.clone();
                // A client that goes away in the middle is its own affair.
                std::thread::spawn(move || behind.serve(connection).ok());
            }
        });
        let (tenant, client_id) = (ready.tenant.clone(), ready.client_id.clone());
        let client_secret = config["client_secret"].as_str().unwrap().to_owned();
        Self {
            port,
            ca_file,
            config_file,
            tenant,
            client_id,
            client_secret,
            ending,
            accepting: Some(accepting),
        }
    }

    /// Tells a program where to sign in, in the variables that the programs of `peers` read.
    pub fn introduce_to(&self, command: &mut Command) {
        command.env("PEER_AUTHORITY", format!("https://{HOST}/{}", self.tenant));
        command.env("PEER_CLIENT_ID", &self.client_id).env("PEER_CLIENT_SECRET", &self.client_secret);
        command.env("PEER_FRONT", self.port.to_string()).env("HTTPS_PROXY", self.proxy());
        command.env_remove("NO_PROXY").env_remove("no_proxy").env_remove("https_proxy");
    }

    pub fn proxy(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// The account that every user signs in with.
    pub fn account(&self) -> String {
        format!("{USER}.{}", self.tenant)
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        self.ending.store(true, Ordering::SeqCst);
        drop(TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)));
        let _ = self.accepting.take().map(JoinHandle::join);
    }
}

/// The `oid` of the only user.
pub const USER: &str = "11111111-2222-3333-4444-555555555555";
/// What the user's token is good for, as the answer has it.
pub const USER_TARGET: &str = "User.Read openid profile offline_access";

/// A certificate for the public cloud's names, its key, and the CA's certificate in PEM.
fn certificates() -> (CertificateDer<'static>, PrivateKeyDer<'static>, String) {
    let ca_key = rcgen::KeyPair::generate().unwrap();
    let mut ca = rcgen::CertificateParams::default();
    ca.distinguished_name.push(rcgen::DnType::CommonName, "Strongroom interop tests");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Constrained(0));
    ca.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign];
    let pem = ca.self_signed(&ca_key).unwrap().pem();

    let key = rcgen::KeyPair::generate().unwrap();
    let names: Vec<String> = [HOST].into_iter().chain(OTHER_NAMES).map(str::to_owned).collect();
    let mut leaf = rcgen::CertificateParams::new(names).unwrap();
    leaf.distinguished_name.push(rcgen::DnType::CommonName, HOST);
    leaf.extended_key_usages = vec![rcgen::ExtendedKeyUsagePurpose::ServerAuth];
    leaf.use_authority_key_identifier_extension = true;
    let leaf = leaf.signed_by(&key, &rcgen::Issuer::new(ca, ca_key)).unwrap();
    let key = PrivateKeyDer::from_pem_slice(key.serialize_pem().as_bytes()).unwrap();
    (leaf.der().clone(), key, pem)
}

/// What each connection is served with.
struct Behind {
    port: u16,
    client_id: String,
    tenant: String,
    here: Arc<ServerConfig>,
    there: Arc<ClientConfig>,
}

impl Behind {
    fn new(ready: &Ready, certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> Self {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let here = ServerConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&ready.ca_file).unwrap()).unwrap();
        let there = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        let port = ready.authority.trim_start_matches("https://localhost:").split('/').next().unwrap();
        Self {
            port: port.parse().unwrap(),
            client_id: ready.client_id.clone(),
            tenant: ready.tenant.clone(),
            here: Arc::new(here),
            there: Arc::new(there),
        }
    }

    /// As a proxy (`CONNECT`), or as the host itself for a client that knows no proxy.
    fn serve(&self, mut connection: TcpStream) -> io::Result<()> {
        const TLS_HANDSHAKE: u8 = 0x16;
        connection.set_read_timeout(Some(PATIENCE))?;
        connection.set_nodelay(true)?;
        let mut first = [0];
        connection.peek(&mut first)?;
        if first[0] != TLS_HANDSHAKE {
            Message::read(&mut connection)?;
            connection.write_all(b"HTTP/1.1 200 OK\r\n\r\n")?;
        }
        let session = ServerConnection::new(self.here.clone()).map_err(io::Error::other)?;
        let mut client = StreamOwned::new(session, connection);
        while let Some(request) = Message::read(&mut client)? {
            match self.answer_for_user(&request) {
                Some(body) => Message::ok(&body).write(&mut client)?,
                None => self.ask(request)?.write(&mut client)?,
            }
        }
        Ok(())
    }

    /// Asks the provider; the addresses in its answer are the public cloud's.
    fn ask(&self, mut request: Message) -> io::Result<Message> {
        let session = ClientConnection::new(self.there.clone(), "localhost".try_into().unwrap());
        let connection = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port))?;
        connection.set_nodelay(true)?;
        let mut provider = StreamOwned::new(session.map_err(io::Error::other)?, connection);
        let own = format!("localhost:{}", self.port);
        request.set("host", &own);
        request.write(&mut provider)?;
        let mut answer = Message::read(&mut provider)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        // URLs alone: its own bare name stands in the list of clouds, and must not become another name of this one.
        answer.body = answer.body.replace(&format!("https://{own}"), &format!("https://{HOST}"));
        Ok(answer)
    }

    /// The token is named after the code or the refresh token that it is for.
    fn answer_for_user(&self, request: &Message) -> Option<String> {
        let form: BTreeMap<&str, &str> =
            request.body.split('&').filter_map(|field| field.split_once('=')).collect();
        let (access, refresh) = match *form.get("grant_type")? {
            "authorization_code" => (format!("access-{}", form["code"]), format!("refresh-{}", form["code"])),
            "refresh_token" => {
                (format!("renewed-{}", form["refresh_token"]), form["refresh_token"].to_owned())
            }
            _ => return None,
        };
        let answer = json!({
            "token_type": "Bearer", "scope": USER_TARGET, "expires_in": 3600, "ext_expires_in": 3600,
            "access_token": access, "refresh_token": refresh, "id_token": id_token(&self.tenant, &self.client_id),
            "client_info": encoded(&json!({ "uid": USER, "utid": self.tenant })),
        });
        Some(answer.to_string())
    }
}

/// Nobody checks its signature: it came over TLS, from whom it names.
pub fn id_token(tenant: &str, client_id: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": format!("https://{HOST}/{tenant}/v2.0"), "aud": client_id, "tid": tenant, "oid": USER, "sub": USER,
        "preferred_username": "user@contoso.com", "name": "A User", "ver": "2.0",
        "iat": now, "nbf": now, "exp": now + 3600,
    });
    format!("{}.{}.signature", encoded(&json!({ "alg": "RS256", "typ": "JWT" })), encoded(&claims))
}

fn encoded(value: &serde_json::Value) -> String {
    URL_SAFE_NO_PAD.encode(value.to_string())
}

/// An HTTP request or response whose body has a stated length.
struct Message {
    first_line: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl Message {
    fn ok(body: &str) -> Self {
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        Self { first_line: "HTTP/1.1 200 OK".to_owned(), headers, body: body.to_owned() }
    }

    /// `None` at the end of the stream.
    fn read(stream: &mut impl Read) -> io::Result<Option<Self>> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(0) => return Ok(None),
                // Most clients end a connection without telling TLS.
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
                outcome => outcome?,
            };
            head.push(byte[0]);
        }
        let head = String::from_utf8(head).map_err(io::Error::other)?;
        let mut lines = head.trim_end().lines();
        let first_line = lines.next().unwrap_or_default().to_owned();
        let headers: Vec<(String, String)> = lines
            .filter_map(|line| line.split_once(':'))
            .map(|(name, value)| (name.to_lowercase(), value.trim().to_owned()))
            .collect();
        let length =
            headers.iter().find(|(name, _)| name == "content-length").map(|(_, value)| value.parse());
        let mut body = vec![0; length.unwrap_or(Ok(0)).map_err(io::Error::other)?];
        stream.read_exact(&mut body)?;
        Ok(Some(Self { first_line, headers, body: String::from_utf8(body).map_err(io::Error::other)? }))
    }

    fn write(mut self, stream: &mut impl Write) -> io::Result<()> {
        let length = self.body.len().to_string();
        self.set("content-length", &length);
        let headers: String =
            self.headers.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
        stream.write_all(format!("{}\r\n{headers}\r\n{}", self.first_line, self.body).as_bytes())?;
        stream.flush()
    }

    fn set(&mut self, name: &str, value: &str) {
        self.headers.retain(|(known, _)| known != name);
        self.headers.push((name.to_owned(), value.to_owned()));
    }
}
