//! Peers that erase what was added, and peers that write back what was removed.

use serde_json::{Value, json};
use strongroom::{
    AccessToken, AuthenticationResult, ConfidentialClientApplication, DocumentStore, Environments,
    FilePersistence, Purge, SecretString, TokenCache, TokenScheme, UnixSeconds, block_on,
};

use crate::client_support::Scene;
use crate::persistence_support::{Moment, SteppedIn};
use crate::support::wait_until;

/// A scene whose document has a token of another application, so that it is never empty.
fn scene() -> Scene {
    let scene = Scene::new();
    scene.app().acquire_token_for_client("api://first/.default").blocking().unwrap();
    scene
}

fn ask(app: &ConfidentialClientApplication, scope: &str) -> AuthenticationResult {
    app.acquire_token_for_client(scope).blocking().unwrap()
}

/// A look at something else, such as a long-lived process takes now and then.
fn look(app: &ConfidentialClientApplication) {
    let _ = app.acquire_token_silent("api://first/.default").blocking().unwrap();
}

fn targets(scene: &Scene) -> Vec<String> {
    let document = scene.document();
    let tokens = document["AccessToken"].as_object().unwrap();
    let mut targets: Vec<_> =
        tokens.values().map(|token| token["target"].as_str().unwrap().to_owned()).collect();
    targets.sort();
    targets
}

fn write(scene: &Scene, content: impl AsRef<[u8]>) {
    std::fs::write(scene.location(), content).unwrap();
}

fn read(scene: &Scene) -> Vec<u8> {
    std::fs::read(scene.location()).unwrap()
}

#[test]
fn a_token_that_a_peer_erased_is_put_back_by_the_process_that_wrote_it() {
    let scene = scene();
    let app = scene.app();
    let before = read(&scene);
    let token = ask(&app, "api://second/.default");
    write(&scene, &before);
    assert_eq!(targets(&scene), ["api://first/.default"]);
    look(&app);
    assert_eq!(targets(&scene), ["api://first/.default", "api://second/.default"]);
    // Another process finds it.
    let found = scene.app().acquire_token_silent("api://second/.default").blocking().unwrap().unwrap();
    assert_eq!(found.access_token(), token.access_token());
}

/// Erases what was asked for lately, as often as it takes for a later token to come back from that: then whatever was to
/// be put back with it is back too.
fn erase_until_a_later_token_is_put_back(scene: &Scene, app: &ConfidentialClientApplication, before: &[u8]) {
    ask(app, "api://later/.default");
    write(scene, before);
    wait_until("a later token is put back", || {
        look(app);
        targets(scene).contains(&"api://later/.default".to_owned())
    });
}

#[test]
fn a_token_is_put_back_as_often_as_it_is_erased_for_five_minutes() {
    for (seconds, is_put_back) in [(299, true), (300, false)] {
        let scene = scene();
        let app = scene.app();
        let before = read(&scene);
        ask(&app, "api://second/.default");
        for _ in 0..4 {
            write(&scene, &before);
            // Not sooner than a while after the last time.
            wait_until("it is put back", || {
                look(&app);
                targets(&scene).len() == 2
            });
            look(&app);
        }
        scene.clock.advance(seconds);
        erase_until_a_later_token_is_put_back(&scene, &app, &before);
        let is_there = targets(&scene).contains(&"api://second/.default".to_owned());
        assert_eq!(is_there, is_put_back, "{seconds} s");
    }
}

#[test]
fn who_takes_all_tokens_of_an_application_away_gets_his_way_the_second_time_and_after_a_minute_at_once() {
    for (seconds, is_put_back) in [(59, true), (60, false)] {
        let scene = scene();
        let app = scene.app();
        ask(&app, "api://second/.default");
        let others = signed_in("of another application").to_string();
        scene.clock.advance(seconds);
        write(&scene, &others);
        look(&app);
        let is_there = targets(&scene) == ["api://second/.default", "user.read"];
        assert_eq!(is_there, is_put_back, "{seconds} s");
        look(&app);
        erase_until_a_later_token_is_put_back(&scene, &app, others.as_bytes());
        assert_eq!(targets(&scene), ["api://later/.default", "user.read"], "{seconds} s");
    }
}

#[test]
fn what_was_taken_away_on_purpose_does_not_come_back_with_a_new_token() {
    let scene = scene();
    let app = scene.app();
    ask(&app, "api://second/.default");
    scene.clock.advance(60);
    write(&scene, signed_in("of another application").to_string());
    look(&app);
    ask(&app, "api://later/.default");
    look(&app);
    assert_eq!(targets(&scene), ["api://later/.default", "user.read"]);
}

#[test]
fn a_token_that_was_put_back_after_all_were_gone_is_still_put_back_when_it_alone_is_lost() {
    let scene = scene();
    let app = scene.app();
    let before = read(&scene);
    ask(&app, "api://second/.default");
    write(&scene, signed_in("of another application").to_string());
    look(&app);
    write(&scene, &before);
    wait_until("it is put back", || {
        look(&app);
        targets(&scene) == ["api://first/.default", "api://second/.default"]
    });
}

#[test]
fn a_document_that_peers_have_torn_is_begun_anew_with_what_those_who_look_have_written() {
    let scene = scene();
    let (app, other) = (scene.app(), scene.app());
    ask(&app, "api://second/.default");
    ask(&other, "api://third/.default");
    let mut torn = read(&scene);
    torn.extend_from_slice(b"}}");
    write(&scene, &torn);
    let found = app.acquire_token_silent("api://second/.default").blocking().unwrap();
    assert!(found.is_some());
    assert_eq!(targets(&scene), ["api://second/.default"]);
    look(&other);
    assert_eq!(targets(&scene), ["api://second/.default", "api://third/.default"]);
    let kept = std::fs::read_dir(scene.folder()).unwrap().map(|entry| entry.unwrap().path());
    let kept: Vec<_> = kept.filter(|path| path.to_string_lossy().contains(".corrupt-")).collect();
    assert_eq!(kept.len(), 1);
    assert_eq!(std::fs::read(&kept[0]).unwrap(), torn);
}

#[test]
fn what_was_removed_is_not_put_back() {
    let scene = scene();
    let app = scene.app();
    ask(&app, "api://second/.default");
    // By another process, to which a peer's erasing looks the same.
    let other = scene.cache();
    let environments = Environments::of("localhost");
    let removed = block_on(other.remove_tokens_for_client(&scene.ready().client_id, &environments)).unwrap();
    assert_eq!(removed, 2);
    look(&app);
    assert_eq!(targets(&scene).len(), 0);

    // The same where the peer was first.
    let app = scene.app();
    let before = read(&scene);
    ask(&app, "api://third/.default");
    write(&scene, &before);
    block_on(other.remove_tokens_for_client(&scene.ready().client_id, &environments)).unwrap();
    look(&app);
    assert_eq!(targets(&scene).len(), 0);
}

#[test]
fn what_everything_was_removed_with_is_not_put_back_though_a_peer_had_erased_it_first() {
    let scene = scene();
    let app = scene.app();
    let others = signed_in("of another application").to_string();
    for purge in [Purge::Client(scene.ready().client_id.clone()), Purge::All] {
        ask(&app, "api://second/.default");
        write(&scene, &others);
        block_on(scene.cache().purge(&purge)).unwrap();
        // What a peer writes next is another application's.
        write(&scene, others.replace("of another", "of a third"));
        look(&app);
        assert_eq!(targets(&scene), ["user.read"], "{purge:?}");
        scene.clock.advance(1);
        let _ = std::fs::remove_file(scene.state_file());
        let _ = app.acquire_token_for_client("api://second/.default").force_refresh(true).blocking().unwrap();
    }
}

#[test]
fn a_removal_that_is_noted_while_a_token_is_being_put_back_holds() {
    let scene = scene();
    let (location, state, now) = (scene.location(), scene.state_file(), scene.clock.read());
    let before = read(&scene);
    let client_id = scene.ready().client_id.clone();
    let erased = before.clone();
    // Saves of the token itself, then of the put-back.
    let file = SteppedIn::new(FilePersistence::new(&location).unwrap(), move |moment| {
        if moment == Moment::Save(2) {
            let marker = json!({ "tombstones": [{ "client_id": client_id, "at": now }] });
            std::fs::write(&state, marker.to_string()).unwrap();
            std::fs::write(&location, [&erased[..], b" "].concat()).unwrap();
        }
    });
    let cache = scene.cache_over(DocumentStore::new(file));
    let app = scene.builder().token_cache(cache).build().unwrap();
    ask(&app, "api://second/.default");
    write(&scene, &before);
    look(&app);
    assert_eq!(read(&scene), [&before[..], b" "].concat(), "the removal came before the replay");
}

#[test]
fn a_flood_of_removed_access_tokens_takes_no_sign_out_and_no_removal_out_of_memory() {
    let scene = scene();
    let app = scene.app();
    let cache = scene.cache();
    write(&scene, merged(&read(&scene), signed_in("old").to_string().as_bytes()));
    let mut signed_in = scene.document();
    // Its tombstone is one of those that had to go.
    signed_in["AccessToken"] = json!({});
    assert_eq!(remove_account(&cache), 4);
    ask(&app, "api://second/.default");
    let mut flooded: Value = serde_json::from_slice(&read(&scene)).unwrap();
    let tokens = flooded["AccessToken"].as_object_mut().unwrap();
    let one = tokens.values().next().unwrap().clone();
    for n in 0..4200 {
        let mut token = one.clone();
        token["target"] = format!("api://{n}/.default").into();
        token["secret"] = format!("flood-{n}").into();
        tokens.insert(format!("flood-{n}"), token);
    }
    write(&scene, flooded.to_string());
    let environments = Environments::of("localhost");
    let removed = block_on(cache.remove_tokens_for_client(&scene.ready().client_id, &environments)).unwrap();
    assert_eq!(removed, 4202);
    let state: Value = serde_json::from_slice(&std::fs::read(scene.state_file()).unwrap()).unwrap();
    let tombstones = state["tombstones"].as_array().unwrap();
    assert_eq!(tombstones.len(), 4096, "it is bounded all the same");
    assert!(tombstones.iter().any(|tombstone| !tombstone["client_id"].is_null()), "the removal itself");
    let lasting = tombstones.iter().filter(|tombstone| tombstone["until"].is_null()).count();
    assert_eq!(lasting, 3, "refresh token, ID token, account");
    write(&scene, signed_in.to_string());
    look(&scene.app());
    for section in ["RefreshToken", "IdToken", "Account"] {
        assert_eq!(entries(&scene, section), 0, "{section} came back");
    }
}

#[test]
fn nothing_is_put_back_where_there_is_no_document_any_more() {
    for content in [None, Some("{}")] {
        let scene = scene();
        let app = scene.app();
        ask(&app, "api://second/.default");
        match content {
            None => std::fs::remove_file(scene.location()).unwrap(),
            Some(content) => write(&scene, content),
        }
        look(&app);
        match content {
            None => assert!(!scene.location().exists(), "a cache that was deleted stays deleted"),
            Some(content) => assert_eq!(read(&scene), content.as_bytes(), "and one that was emptied, empty"),
        }
    }
}

#[test]
fn nothing_is_put_back_where_another_token_answers() {
    let scene = scene();
    let app = scene.app();
    let before = read(&scene);
    ask(&app, "api://second/.default");
    write(&scene, &before);
    // The peer, or another process of ours, has signed in by itself.
    let other = ask(&scene.app(), "api://second/.default");
    look(&app);
    let document = scene.document();
    let tokens = document["AccessToken"].as_object().unwrap();
    let second: Vec<&Value> =
        tokens.values().filter(|token| token["target"] == "api://second/.default").collect();
    assert_eq!(second.len(), 1);
    assert_eq!(second[0]["secret"], other.access_token().expose());
}

fn token_of_a_user(now: UnixSeconds) -> AccessToken {
    AccessToken {
        home_account_id: Some("uid.utid".into()),
        environment: "localhost".into(),
        client_id: "c".into(),
        realm: "t".into(),
        target: "user.read".into(),
        secret: SecretString::from("a user's"),
        token_type: "Bearer".into(),
        scheme: TokenScheme::Bearer,
        cached_at: now,
        expires_on: now.plus(3600),
        extended_expires_on: now.plus(3600),
        refresh_on: None,
        user_assertion_hash: None,
        extended: None,
    }
}

#[test]
fn a_users_token_is_never_put_back() {
    let scene = scene();
    let cache = scene.cache();
    let before = read(&scene);
    let environments = Environments::of("localhost");
    block_on(cache.store_access_token(token_of_a_user(cache.now()), &environments)).unwrap();
    assert_eq!(targets(&scene).len(), 2);
    write(&scene, &before);
    let app = scene.builder().token_cache(cache).build().unwrap();
    look(&app);
    assert_eq!(targets(&scene).len(), 1, "it may have been a sign-out");
}

#[test]
fn tokens_that_were_removed_and_come_back_are_removed_again() {
    let scene = scene();
    let app = scene.app();
    ask(&app, "api://second/.default");
    let before = read(&scene);
    assert_eq!(block_on(app.remove_tokens_for_client()).unwrap(), 2);
    assert!(app.acquire_token_silent("api://second/.default").blocking().unwrap().is_none());
    // As MSAL Node does it, which merges what it has in memory; met by another process.
    write(&scene, &before);
    let found = scene.app().acquire_token_silent("api://second/.default").blocking().unwrap();
    assert!(found.is_none(), "not even served once");
    assert!(targets(&scene).is_empty());
    let state = std::fs::read_to_string(scene.state_file()).unwrap();
    let secrets: Value = serde_json::from_slice(&before).unwrap();
    for token in secrets["AccessToken"].as_object().unwrap().values() {
        assert!(!state.contains(token["secret"].as_str().unwrap()), "only hashes are kept");
    }
    // A new one, with a new secret, stays.
    ask(&scene.app(), "api://second/.default");
    write(&scene, merged(&before, &read(&scene)));
    look(&scene.app());
    assert_eq!(targets(&scene), ["api://second/.default"]);
    // After 90 days nobody remembers.
    scene.clock.advance(90 * 86_400);
    write(&scene, &before);
    look(&scene.app());
    assert_eq!(targets(&scene).len(), 2);
}

/// Both documents' entries, as a peer that merges would write them; of equal keys the second one's.
fn merged(first: &[u8], second: &[u8]) -> String {
    let [mut all, new]: [Value; 2] = [first, second].map(|bytes| serde_json::from_slice(bytes).unwrap());
    for (section, entries) in new.as_object().unwrap() {
        for (key, entry) in entries.as_object().unwrap() {
            all[section][key] = entry.clone();
        }
    }
    all.to_string()
}

/// The document of a user that MSAL Python has signed in, at this scene's host.
fn signed_in(secret: &str) -> Value {
    let of_user = |extra: Value| {
        let mut entry = json!({
            "home_account_id": "uid.utid", "environment": "localhost", "client_id": "c", "realm": "t",
        });
        entry.as_object_mut().unwrap().extend(extra.as_object().unwrap().clone());
        entry
    };
    json!({
        "AccessToken": { "uid.utid-localhost-accesstoken-c-t-user.read": of_user(json!({
            "credential_type": "AccessToken", "secret": format!("at-{secret}"), "target": "user.read",
            "token_type": "Bearer", "cached_at": "1", "expires_on": "9999999999",
            "extended_expires_on": "9999999999",
        })) },
        "RefreshToken": { "uid.utid-localhost-refreshtoken-c--user.read": of_user(json!({
            "credential_type": "RefreshToken", "secret": format!("rt-{secret}"), "target": "user.read",
            "last_modification_time": "1",
        })) },
        "IdToken": { "uid.utid-localhost-idtoken-c-t-": of_user(json!({
            "credential_type": "IdToken", "secret": format!("id-{secret}"),
        })) },
        "Account": { "uid.utid-localhost-t": {
            "home_account_id": "uid.utid", "environment": "localhost", "realm": "t", "local_account_id": "uid",
            "username": "user@contoso.com", "authority_type": "MSSTS",
        } },
    })
}

fn entries(scene: &Scene, section: &str) -> usize {
    scene.document()[section].as_object().map_or(0, serde_json::Map::len)
}

fn remove_account(cache: &TokenCache) -> usize {
    block_on(cache.remove_account("uid.utid", &Environments::of("localhost"))).unwrap()
}

#[test]
fn a_user_who_was_removed_stays_removed_until_a_new_sign_in() {
    let scene = scene();
    let cache = scene.cache();
    let with_user = merged(&read(&scene), signed_in("old").to_string().as_bytes());
    write(&scene, &with_user);
    assert_eq!(remove_account(&cache), 4);
    for section in ["RefreshToken", "IdToken", "Account"] {
        assert_eq!(entries(&scene, section), 0, "{section}");
    }
    assert_eq!(targets(&scene), ["api://first/.default"], "the application's own token stays");

    // A peer writes all of it back.
    write(&scene, &with_user);
    look(&scene.app());
    for section in ["RefreshToken", "IdToken", "Account"] {
        assert_eq!(entries(&scene, section), 0, "{section} came back");
    }
    assert_eq!(targets(&scene), ["api://first/.default"]);

    // A new sign-in, beside what a peer still remembers of the old one.
    let mut both: Value =
        serde_json::from_str(&merged(with_user.as_bytes(), signed_in("new").to_string().as_bytes())).unwrap();
    let old = signed_in("old")["RefreshToken"]["uid.utid-localhost-refreshtoken-c--user.read"].clone();
    both["RefreshToken"]["uid.utid-localhost-refreshtoken-c-"] = old;
    write(&scene, both.to_string());
    look(&scene.app());
    let document = scene.document();
    let refresh: Vec<&Value> = document["RefreshToken"].as_object().unwrap().values().collect();
    assert_eq!(refresh.len(), 1);
    assert_eq!(refresh[0]["secret"], "rt-new");
    assert_eq!(entries(&scene, "Account"), 1, "the account belongs to the new sign-in");
    assert_eq!(entries(&scene, "IdToken"), 1);
    look(&scene.app());
    assert_eq!(entries(&scene, "Account"), 1);
}

#[test]
fn removing_what_is_not_there_is_no_error_and_writes_nothing() {
    let scene = scene();
    let before = std::fs::metadata(scene.location()).unwrap();
    assert_eq!(remove_account(&scene.cache()), 0);
    let after = std::fs::metadata(scene.location()).unwrap();
    assert_eq!(before.modified().unwrap(), after.modified().unwrap());
}
