//! What the sign-out of MSAL Python leaves of other languages' entries, ours removes.

use serde_json::{Value, json};
use strongroom::{Environments, FilePersistence, TokenCache, block_on};

use crate::support::{World, lines_of};

const USER: &str = "uid.utid";

/// A user's entries as MSAL Go and MSAL Node store them, at one host: their keys differ from Python's in dashes.
fn signed_in_by_go_and_node() -> Value {
    let of_user = |extra: Value| {
        let mut entry = json!({
            "home_account_id": USER, "environment": "login.microsoftonline.com", "client_id": "client-id",
        });
        entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        entry
    };
    let access = of_user(json!({
        "credential_type": "AccessToken", "secret": "node-at", "realm": "tid", "target": "user.read",
        "cached_at": "1700000000", "expires_on": "9999999999", "extended_expires_on": "9999999999",
        "token_type": "Bearer",
    }));
    let id =
        |secret: &str| of_user(json!({ "credential_type": "IdToken", "secret": secret, "realm": "tid" }));
    let refresh = |secret: &str| of_user(json!({ "credential_type": "RefreshToken", "secret": secret }));
    let key = |rest: &str| format!("{USER}-login.microsoftonline.com-{rest}");
    json!({
        "AccessToken": { key("accesstoken-client-id-tid-user.read-"): access },
        "RefreshToken": {
            key("refreshtoken-client-id---"): refresh("node-rt"), key("refreshtoken-client-id"): refresh("go-rt"),
        },
        "IdToken": {
            key("idtoken-client-id-tid--"): id("node-id"), key("idtoken-client-id-tid"): id("go-id"),
        },
        "Account": { key("tid"): {
            "home_account_id": USER, "environment": "login.microsoftonline.com", "realm": "tid",
            "local_account_id": "uid", "username": "user@contoso.com", "authority_type": "MSSTS",
        } },
        "AppMetadata": {},
    })
}

fn entries_of_user(world: &World) -> Vec<String> {
    let document = world.document();
    let sections = document.as_object().unwrap().values().filter_map(Value::as_object).flatten();
    let theirs = sections.filter(|(_, entry)| entry["home_account_id"] == USER);
    theirs.map(|(key, _)| key.clone()).collect()
}

#[test]
fn what_pythons_sign_out_leaves_behind_ours_removes() {
    let Some(world) = World::new("sign_out::what_pythons_sign_out_leaves_behind_ours_removes") else {
        return;
    };
    std::fs::write(world.cache(), signed_in_by_go_and_node().to_string()).unwrap();
    let mut python = world.python("sign_out.py");
    python.arg(world.cache()).args(["login.microsoftonline.com", "tid", "client-id", USER]);
    let said = lines_of(&mut python);
    assert_eq!(
        (&said[0]["accounts"], &said[0]["left"]),
        (&json!(1), &json!(0)),
        "Python has signed the user out"
    );
    let left = entries_of_user(&world);
    assert!(left.iter().any(|key| key.contains("refreshtoken")), "and left secrets behind: {left:?}");

    let cache = TokenCache::with_persistence(FilePersistence::new(world.cache()).unwrap());
    let environments = Environments::of("login.microsoftonline.com");
    let removed = block_on(cache.remove_account(USER, &environments)).unwrap();
    assert_eq!(removed, left.len());
    assert_eq!(entries_of_user(&world), [""; 0]);
}
