//! A private session bus with a real GNOME Keyring on it, or with something that plays the Secret Service, for one
//! test alone. Nothing of it touches the person's own session, and all of it ends with the test.

use std::cell::RefCell;
use std::collections::HashMap;
use std::future::poll_fn;
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use futures_core::Stream as _;
use strongroom::{SecretServicePersistence, SecretServicePersistenceBuilder};
use tokio::runtime::Runtime;
use zbus::message::Type as MessageType;
use zbus::zvariant::{ObjectPath, OwnedObjectPath, OwnedValue, Value};
use zbus::{Connection, Message, MessageStream};

use crate::support::{skip, wait_until};

pub(crate) const PASSWORD: &str = "correct horse";
const SERVICE: &str = "org.freedesktop.secrets";

/// Whether a real keyring can be started here.
pub(crate) fn has_keyring(test: &str) -> bool {
    let missing: Vec<_> =
        ["dbus-daemon", "gnome-keyring-daemon"].into_iter().filter(|name| !is_installed(name)).collect();
    if !missing.is_empty() {
        skip(test, &format!("needs {} (./test keyring installs them)", missing.join(" and ")));
    }
    missing.is_empty()
}

/// A session bus of its own, in a folder of its own.
pub(crate) struct Bus {
    pub(crate) folder: tempfile::TempDir,
    daemon: Child,
}

impl Bus {
    pub(crate) fn start() -> Self {
        Self::with_policy("")
    }

    /// A bus with further rules; nothing is started on it by itself.
    pub(crate) fn with_policy(rules: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("bus.conf");
        let text = format!(
            r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
            "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
            <busconfig><type>session</type><listen>unix:path={}</listen><auth>EXTERNAL</auth>
            <policy context="default"><allow send_destination="*" eavesdrop="true"/><allow eavesdrop="true"/><allow own="*"/>{rules}
            </policy></busconfig>"#,
            folder.path().join("bus").display()
        );
        std::fs::write(&config, text).unwrap();
        let mut daemon = Command::new("dbus-daemon")
            .args(["--nofork", "--nosyslog", "--print-address=1", "--config-file"])
            .arg(config)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // It says its address when it listens.
        let mut line = String::new();
        BufReader::new(daemon.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.starts_with("unix:"), "{line:?}");
        Self { folder, daemon }
    }

    pub(crate) fn address(&self) -> String {
        format!("unix:path={}", self.folder.path().join("bus").display())
    }

    /// Where a signal file may lie.
    pub(crate) fn signal(&self) -> PathBuf {
        self.folder.path().join("cache/token_cache.bin")
    }

    pub(crate) fn builder(&self) -> SecretServicePersistenceBuilder {
        SecretServicePersistence::builder(self.signal())
            .session_bus(self.address())
            // A machine that is busy is no reason to fail; where the deadline is to pass, a test sets another.
            .deadline(std::time::Duration::from_secs(60))
    }

    pub(crate) fn persistence(&self) -> SecretServicePersistence {
        self.builder().build().unwrap()
    }

    pub(crate) fn client(&self) -> Client {
        Client::of(&self.address())
    }

    /// The environment of another program of this session.
    pub(crate) fn join(&self, command: &mut Command) {
        let folder = self.folder.path();
        for name in ["DISPLAY", "WAYLAND_DISPLAY"] {
            command.env_remove(name);
        }
        command
            .env("DBUS_SESSION_BUS_ADDRESS", self.address())
            .env("HOME", folder)
            .env("XDG_DATA_HOME", folder.join("data"))
            .env("XDG_CONFIG_HOME", folder.join("config"))
            .env("XDG_CACHE_HOME", folder.join("cache-home"))
            .env("XDG_RUNTIME_DIR", folder);
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        end(&mut self.daemon);
    }
}

/// A real GNOME Keyring on a bus of its own.
pub(crate) struct Keyring {
    pub(crate) bus: Bus,
    daemon: RefCell<Option<Child>>,
}

impl Keyring {
    /// A keyring that is unlocked.
    pub(crate) fn start() -> Self {
        Self::on(Bus::start())
    }

    pub(crate) fn on(bus: Bus) -> Self {
        let keyring = Self { bus, daemon: RefCell::default() };
        keyring.begin(PASSWORD);
        keyring
    }

    /// Starts the daemon, with this password for its keyring, and waits until it is there.
    pub(crate) fn begin(&self, password: &str) {
        let mut command = Command::new("gnome-keyring-daemon");
        self.bus.join(&mut command);
        let control = self.bus.folder.path().join("control");
        let mut daemon = command
            .args(["--foreground", "--unlock", "--components=secrets", "--control-directory"])
            .arg(control)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        daemon.stdin.take().unwrap().write_all(password.as_bytes()).unwrap();
        *self.daemon.borrow_mut() = Some(daemon);
        let client = self.bus.client();
        wait_until("the Secret Service is there", || client.has_owner(SERVICE));
    }

    /// Ends the daemon; the bus goes on.
    pub(crate) fn end(&self) {
        if let Some(mut daemon) = self.daemon.borrow_mut().take() {
            end(&mut daemon);
        }
        let client = self.bus.client();
        wait_until("the Secret Service is gone", || !client.has_owner(SERVICE));
    }
}

impl Drop for Keyring {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.get_mut() {
            end(daemon);
        }
    }
}

fn end(process: &mut Child) {
    let _ = process.kill();
    let _ = process.wait();
}

/// Another program's view of the Secret Service, independent of the library's.
pub(crate) struct Client {
    runtime: Runtime,
    connection: Connection,
}

/// Attributes, label, content, content type.
pub(crate) type Item = (HashMap<String, String>, String, Vec<u8>, String);

impl Client {
    pub(crate) fn of(address: &str) -> Self {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let connection =
            runtime.block_on(zbus::connection::Builder::address(address).unwrap().build()).unwrap();
        Self { runtime, connection }
    }

    pub(crate) fn has_owner(&self, name: &str) -> bool {
        let bus = ("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus");
        let reply = self.runtime.block_on(self.connection.call_method(
            Some(bus.0),
            bus.1,
            Some(bus.2),
            "NameHasOwner",
            &(name,),
        ));
        reply.unwrap().body().deserialize().unwrap()
    }

    /// Takes a name on the bus and never answers who calls it.
    pub(crate) fn take_name(&self, name: &'static str) {
        self.runtime.block_on(self.connection.request_name(name)).unwrap();
    }

    pub(crate) fn lock(&self) {
        self.lock_keyring(&self.default_keyring());
    }

    pub(crate) fn lock_keyring(&self, keyring: &OwnedObjectPath) {
        self.service("Lock", &(vec![keyring],));
    }

    pub(crate) fn default_keyring(&self) -> OwnedObjectPath {
        self.service("ReadAlias", &("default",)).body().deserialize().unwrap()
    }

    pub(crate) fn create(&self, attributes: &[(&str, &str)], content: &str) -> OwnedObjectPath {
        self.create_in(&self.default_keyring(), attributes, content)
    }

    /// A keyring that is always there beside the default one, unlocked and without a password.
    pub(crate) fn session_keyring(&self) -> OwnedObjectPath {
        self.service("ReadAlias", &("session",)).body().deserialize().unwrap()
    }

    /// Makes a keyring with a password of its own.
    pub(crate) fn create_keyring(&self, label: &str) -> OwnedObjectPath {
        let properties = HashMap::from([("org.freedesktop.Secret.Collection.Label", Value::from(label))]);
        let password = (self.session(), Vec::<u8>::new(), PASSWORD.as_bytes(), "text/plain");
        // What its own prompter calls.
        let interface = "org.gnome.keyring.InternalUnsupportedGuiltRiddenInterface";
        let reply = self.call(
            "/org/freedesktop/secrets",
            interface,
            "CreateWithMasterPassword",
            &(properties, password),
        );
        reply.body().deserialize().unwrap()
    }

    pub(crate) fn create_in(
        &self,
        keyring: &OwnedObjectPath,
        attributes: &[(&str, &str)],
        content: &str,
    ) -> OwnedObjectPath {
        let attributes: HashMap<&str, &str> = attributes.iter().copied().collect();
        let properties = HashMap::from([
            ("org.freedesktop.Secret.Item.Label", Value::from("by another program")),
            ("org.freedesktop.Secret.Item.Attributes", Value::from(attributes)),
        ]);
        let session = self.session();
        let secret = (session, Vec::<u8>::new(), content.as_bytes(), "text/plain");
        let body = (properties, secret, false);
        let reply = self.call(keyring.as_str(), "org.freedesktop.Secret.Collection", "CreateItem", &body);
        let (item, _): (OwnedObjectPath, OwnedObjectPath) = reply.body().deserialize().unwrap();
        item
    }

    /// Makes an item that is newer than another one. The service tells seconds apart.
    pub(crate) fn create_after(
        &self,
        older: &OwnedObjectPath,
        attributes: &[(&str, &str)],
        content: &str,
    ) -> OwnedObjectPath {
        self.create_after_in(&self.default_keyring(), older, attributes, content)
    }

    pub(crate) fn create_after_in(
        &self,
        keyring: &OwnedObjectPath,
        older: &OwnedObjectPath,
        attributes: &[(&str, &str)],
        content: &str,
    ) -> OwnedObjectPath {
        let mut made = None;
        wait_until("a later second", || {
            if let Some(item) = made.take() {
                self.delete(&item);
            }
            let item = made.insert(self.create_in(keyring, attributes, content));
            self.modified(item) > self.modified(older)
        });
        made.unwrap()
    }

    pub(crate) fn delete(&self, item: &OwnedObjectPath) {
        self.call(item.as_str(), "org.freedesktop.Secret.Item", "Delete", &());
    }

    /// The second in which an item was last changed.
    fn modified(&self, item: &OwnedObjectPath) -> u64 {
        let get = ("org.freedesktop.Secret.Item", "Modified");
        let reply = self.call(item.as_str(), "org.freedesktop.DBus.Properties", "Get", &get);
        let value: OwnedValue = reply.body().deserialize().unwrap();
        value.try_into().unwrap()
    }

    pub(crate) fn find(&self, attributes: &[(&str, &str)]) -> Vec<OwnedObjectPath> {
        let attributes: HashMap<&str, &str> = attributes.iter().copied().collect();
        let reply = self.service("SearchItems", &(attributes,));
        let (mut found, locked): (Vec<OwnedObjectPath>, Vec<OwnedObjectPath>) =
            reply.body().deserialize().unwrap();
        found.extend(locked);
        found
    }

    pub(crate) fn item(&self, item: &OwnedObjectPath) -> Item {
        let get_all = ("org.freedesktop.Secret.Item",);
        let reply = self.call(item.as_str(), "org.freedesktop.DBus.Properties", "GetAll", &get_all);
        let mut all: HashMap<String, OwnedValue> = reply.body().deserialize().unwrap();
        let attributes = all.remove("Attributes").unwrap().try_into().unwrap();
        let label = all.remove("Label").unwrap().try_into().unwrap();
        let reply = self.call(item.as_str(), "org.freedesktop.Secret.Item", "GetSecret", &(self.session(),));
        let ((_, _, content, kind),): ((OwnedObjectPath, Vec<u8>, Vec<u8>, String),) =
            reply.body().deserialize().unwrap();
        (attributes, label, content, kind)
    }

    fn session(&self) -> OwnedObjectPath {
        let reply = self.service("OpenSession", &("plain", Value::from("")));
        let (_, session): (OwnedValue, OwnedObjectPath) = reply.body().deserialize().unwrap();
        session
    }

    fn service<B: serde::Serialize + zbus::zvariant::DynamicType>(&self, method: &str, body: &B) -> Message {
        self.call("/org/freedesktop/secrets", "org.freedesktop.Secret.Service", method, body)
    }

    fn call<B>(&self, path: &str, interface: &str, method: &str, body: &B) -> Message
    where
        B: serde::Serialize + zbus::zvariant::DynamicType,
    {
        let call = self.connection.call_method(Some(SERVICE), path, Some(interface), method, body);
        self.runtime.block_on(call).unwrap()
    }
}

/// Something that has the Secret Service's name on a bus and answers as a test wants it.
pub(crate) struct Actor {
    calls: Calls,
    _thread: JoinHandle<()>,
}

/// What an [`Actor`] answers.
pub(crate) enum Reply {
    Never,
    Error(&'static str),
    /// Items that are unlocked, items that are not.
    Items(Vec<&'static str>, Vec<&'static str>),
    Path(&'static str),
    Prompt(&'static str),
    Session,
    Attributes(Vec<(String, String)>),
    Locked(bool),
    Nothing,
}

impl Actor {
    /// `answer` is given the names of method and object. It plays until the bus ends.
    pub(crate) fn on(bus: &Bus, answer: impl Fn(&str, &str) -> Reply + Send + 'static) -> Self {
        let calls = Calls::default();
        let address = bus.address();
        let noted = Arc::clone(&calls);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(play(&address, &noted, answer));
        });
        let client = bus.client();
        wait_until("the actor has the name", || client.has_owner(SERVICE));
        Self { calls, _thread: thread }
    }

    /// How often a method has been called so far.
    pub(crate) fn count(&self, method: &str) -> usize {
        self.calls.lock().unwrap().iter().filter(|(called, _)| called == method).count()
    }

    /// The connection that called a method last.
    pub(crate) fn caller_of(&self, method: &str) -> String {
        let calls = self.calls.lock().unwrap();
        calls.iter().rfind(|(called, _)| called == method).unwrap().1.clone()
    }
}

/// Methods that were called, and the connections that called them.
type Calls = Arc<Mutex<Vec<(String, String)>>>;

async fn play(address: &str, noted: &Calls, answer: impl Fn(&str, &str) -> Reply) {
    let connection = zbus::connection::Builder::address(address).unwrap().build().await.unwrap();
    let mut calls = MessageStream::from(&connection);
    connection.request_name(SERVICE).await.unwrap();
    while let Some(Ok(call)) = poll_fn(|context| Pin::new(&mut calls).poll_next(context)).await {
        if call.message_type() != MessageType::MethodCall {
            continue;
        }
        let header = call.header();
        let method = header.member().unwrap().to_string();
        let caller = header.sender().map(ToString::to_string).unwrap_or_default();
        noted.lock().unwrap().push((method.clone(), caller));
        let path = |text: &'static str| ObjectPath::try_from(text).unwrap();
        let none = || path("/");
        let paths = |all: Vec<&'static str>| all.into_iter().map(path).collect::<Vec<_>>();
        let sent = match answer(&method, header.path().unwrap().as_str()) {
            Reply::Never => Ok(()),
            Reply::Error(name) => connection.reply_error(&header, name, &"says the actor").await,
            Reply::Items(unlocked, locked) => {
                connection.reply(&header, &(paths(unlocked), paths(locked))).await
            }
            Reply::Path(text) => connection.reply(&header, &path(text)).await,
            Reply::Prompt(text) => connection.reply(&header, &(paths(vec![]), path(text))).await,
            Reply::Session => {
                connection
                    .reply(&header, &(Value::from(""), path("/org/freedesktop/secrets/session/s1")))
                    .await
            }
            Reply::Attributes(all) => {
                let all: HashMap<String, String> = all.into_iter().collect();
                let all = HashMap::from([("Attributes", Value::from(all)), ("Modified", Value::from(1_u64))]);
                connection.reply(&header, &all).await
            }
            Reply::Locked(locked) => connection.reply(&header, &Value::from(locked)).await,
            Reply::Nothing => connection.reply(&header, &none()).await,
        };
        // Nobody need be left to hear it.
        drop(sent);
    }
}

fn is_installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder: PathBuf| Path::new(&folder).join(program).is_file())
}
