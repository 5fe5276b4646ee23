//! Many writers of one file at the same time.

use std::collections::BTreeSet;

use crate::support::{World, lines_of};

#[test]
fn eight_processes_with_twenty_five_tokens_each_lose_none() {
    // Needs no Python to write, but it must be able to read the outcome.
    let Some(world) = World::new("contention::eight_processes_with_twenty_five_tokens_each_lose_none") else {
        return;
    };
    let expected: BTreeSet<String> =
        (0..8).flat_map(|p| (0..25).map(move |n| format!("api://p{p}-{n}/.default"))).collect();
    std::thread::scope(|scope| {
        for p in 0..8 {
            let world = &world;
            scope.spawn(move || {
                for n in 0..25 {
                    let token = world.our_token(Some(&format!("api://p{p}-{n}/.default")));
                    assert_eq!(token["persisted"], true);
                }
            });
        }
    });
    assert_eq!(world.targets(), expected);
    assert_eq!(world.sts.stats().token, 200);
    let scopes: Vec<String> = expected.into_iter().collect();
    let theirs = lines_of(&mut world.python_client(&scopes));
    assert!(theirs.iter().all(|line| line["source"] == "cache"));
}

#[test]
fn beside_python_that_writes_too_all_of_our_tokens_are_there() {
    let Some(world) = World::new("contention::beside_python_that_writes_too_all_of_our_tokens_are_there")
    else {
        return;
    };
    let scope = |who: &str, p: usize, n: usize| format!("api://{who}{p}-{n}/.default");
    std::thread::scope(|threads| {
        for p in 0..3 {
            let world = &world;
            threads.spawn(move || {
                let scopes: Vec<String> = (0..10).map(|n| scope("python", p, n)).collect();
                let lines = lines_of(&mut world.python_client(&scopes));
                assert_eq!(lines.len(), 10);
            });
            threads.spawn(move || {
                for n in 0..10 {
                    assert_eq!(world.our_token(Some(&scope("ours", p, n)))["persisted"], true);
                }
            });
        }
    });
    // Python can erase what was written between its reload and its save; asking again puts it back.
    for p in 0..3 {
        for n in 0..10 {
            world.our_token(Some(&scope("ours", p, n)));
        }
    }
    let targets = world.targets();
    let ours = targets.iter().filter(|target| target.contains("ours")).count();
    assert_eq!(ours, 30);
    let python = targets.iter().filter(|target| target.contains("python")).count();
    eprintln!("of 30 tokens of Python's own {python} are there");
}
