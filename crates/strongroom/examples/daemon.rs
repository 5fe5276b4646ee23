//! A daemon: gets a token, from the cache if it can, calls an API, ends.
//!
//!     cargo run --example daemon -- config.json [trust-roots.pem]
#![allow(clippy::print_stdout)] // the output of a sample
use std::{env, error::Error, fs};

use strongroom::{
    ClientCredential, ConfidentialClientApplication, FilePersistence, HttpRequest, HttpTransport, TokenCache,
    Transport, block_on,
};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let file = arguments.first().ok_or("usage: daemon config.json [trust-roots.pem]")?;
    let config: serde_json::Value = serde_json::from_slice(&fs::read(file)?)?;
    let text = |name: &str| config[name].as_str().ok_or(format!("{name} is missing in the configuration"));
    let transport = || match arguments.get(1) {
        Some(roots) => HttpTransport::with_extra_roots(&fs::read(roots)?).map_err(Box::<dyn Error>::from),
        None => Ok(HttpTransport::new()),
    };

    let cache = TokenCache::with_persistence(FilePersistence::new("token_cache.bin")?);
    println!("cache: {}, encrypted: {}", cache.info().location, cache.info().protection.is_encrypted());
    let secret = ClientCredential::from_secret(text("client_secret")?);
    let app = ConfidentialClientApplication::builder(text("client_id")?, text("authority")?, secret)
        .token_cache(cache)
        .instance_discovery(config["instance_discovery"].as_bool().unwrap_or(true))
        .transport(transport()?)
        .build()?;
    let scope = config["scope"][0].as_str().ok_or("scope is missing in the configuration")?;
    let result = app.acquire_token_for_client([scope]).blocking()?;
    println!("token from the {}, good for {} s", result.token_source().as_str(), result.expires_in());

    let mut request = HttpRequest::get(text("endpoint")?);
    request.headers.push(("authorization", result.authorization_header().expose().to_owned()));
    println!("the API answered {}", block_on(transport()?.send(request))?.status);
    Ok(())
}
