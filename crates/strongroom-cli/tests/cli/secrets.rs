//! No secret and no token gets out by a side door.

use crate::support::{World, run, stderr, stdout};

#[test]
fn the_most_verbose_log_has_neither_the_secret_nor_the_token() {
    let world = World::new();
    let secret = world.ready().client_secret.clone();
    let encoded = secret.replace('~', "%7E");
    let good = run(world.token().arg("-vvv").env("STRONGROOM_LOG", "trace"));
    let token = stdout(&good).trim().to_owned();
    let log = stderr(&good);
    assert!(log.len() > 1000, "there is something to look at");
    let signature = token.rsplit('.').next().unwrap();
    for hidden in [secret.as_str(), &encoded, token.as_str(), signature] {
        assert!(!log.contains(hidden));
    }
    let hit = stderr(&run(world.token().arg("-vvv")));
    assert!(!hit.contains(signature));

    let wrong = world.config(|config| config["client_secret"] = "wr0ng-s3cret".into());
    let mut refused = crate::support::command("token");
    refused.arg("-vvv").arg("--config").arg(wrong).arg("--cache").arg(world.path("other.bin"));
    refused.arg("--ca-file").arg(&world.ready().ca_file);
    let refused = run(&mut refused);
    assert!(!(stderr(&refused) + &stdout(&refused)).contains("wr0ng-s3cret"));
}
