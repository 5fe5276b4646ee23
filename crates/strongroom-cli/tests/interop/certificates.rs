//! Clients with a certificate: the real msal is believed by the provider, and each side finds the other's tokens, plain
//! ones and those of an FMI path.

use std::process::Command;

use strongroom::{
    ClientCertificate, ClientCredential, ConfidentialClientApplication, FilePersistence, HttpTransport,
    TokenCache,
};

use crate::support::{World, lines_of};

const FMI_PATH: &str = "some/path";

fn theirs(world: &World, form: &str) -> Command {
    let ready = world.sts.ready();
    let mut command = world.python("client_certificate.py");
    command
        .arg(form)
        .args([&ready.private_key_file, &ready.certificate_file].map(|file| file.as_ref().unwrap()));
    command.arg(ready.thumbprint.as_ref().unwrap());
    command.args([&ready.config_file, &world.cache(), &ready.ca_file]).arg(FMI_PATH);
    command
}

fn ours(world: &World) -> ConfidentialClientApplication {
    let ready = world.sts.ready();
    let [key, certificate] = [&ready.private_key_file, &ready.certificate_file]
        .map(|file| std::fs::read_to_string(file.as_ref().unwrap()).unwrap());
    let certificate = ClientCertificate::from_pem(key).public_certificate(certificate);
    let credential = ClientCredential::from_certificate(certificate);
    let roots = std::fs::read(&ready.ca_file).unwrap();
    ConfidentialClientApplication::builder(ready.client_id.as_str(), ready.authority.as_str(), credential)
        .instance_discovery(false)
        .transport(HttpTransport::with_extra_roots(&roots).unwrap())
        .token_cache(TokenCache::with_persistence(FilePersistence::new(world.cache()).unwrap()))
        .build()
        .unwrap()
}

/// The plain token, and that of the path.
fn our_tokens(world: &World) -> [String; 2] {
    let app = ours(world);
    let ask = || app.acquire_token_for_client(world.sts.ready().scope.as_str());
    [ask(), ask().fmi_path(FMI_PATH)]
        .map(|request| request.blocking().unwrap().access_token().expose().to_owned())
}

#[test]
fn what_python_got_with_a_certificate_we_find() {
    for form in ["certificate", "thumbprint", "both"] {
        let Some(world) = World::new("certificates::what_python_got_with_a_certificate_we_find") else {
            return;
        };
        let theirs = lines_of(&mut theirs(&world, form));
        assert!(theirs.iter().all(|token| token["source"] == "identity_provider"), "{form}: {theirs:?}");
        world.sts.reset();
        let theirs: Vec<_> = theirs.iter().map(|token| token["access_token"].as_str().unwrap()).collect();
        assert_eq!(our_tokens(&world)[..], theirs[..], "{form}");
        assert_eq!(world.sts.stats().token, 0, "{form}");
    }
}

#[test]
fn what_we_got_with_a_certificate_python_finds() {
    let Some(world) = World::new("certificates::what_we_got_with_a_certificate_python_finds") else { return };
    let ours = our_tokens(&world);
    assert_eq!(world.sts.stats().token, 2);
    let theirs = lines_of(&mut theirs(&world, "certificate"));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!((&theirs["source"], &theirs["access_token"]), (&"cache".into(), &ours.as_str().into()));
    }
    assert_eq!(world.sts.stats().token, 2);
}
