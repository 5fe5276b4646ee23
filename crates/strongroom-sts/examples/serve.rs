//! A provider until it is interrupted: `cargo run -p strongroom-sts --example serve -- FOLDER [PORT]`.
//! Prints what a client needs as one line of JSON.

use std::io::Write as _;

use strongroom_sts::{Config, Sts};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let folder = arguments.next().ok_or("usage: serve FOLDER [PORT]")?;
    let port = arguments.next().map_or(Ok(0), |p| p.parse())?;
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let sts = Sts::start(Config::new(folder).port(port)).await?;
        writeln!(std::io::stdout(), "{}", serde_json::to_string(sts.ready())?)?;
        sts.wait().await;
        Ok(())
    })
}
