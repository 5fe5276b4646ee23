use reqwest::StatusCode;
use strongroom_sts::{Config, Endpoint, Fault, Sts};

use crate::support::{Provider, client};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_and_twenty_eight_connections_at_once_are_served() {
    let provider = Provider::new();
    // Held, so that all are open at the same moment.
    provider.sts.add_fault(Fault::new(Endpoint::Token).hold()).unwrap();
    let requests: Vec<_> = (0..128).map(|_| tokio::spawn(provider.token_request(&[]).send())).collect();
    provider.wait_for(|s| s.held == 128);
    provider.sts.clear_faults();
    for request in requests {
        assert_eq!(request.await.unwrap().unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_body_beyond_the_limit_is_refused() {
    let provider = Provider::new();
    let body = vec![b'a'; 1024 * 1024 + 1];
    // The answer may come before the body is out; then the client may see either.
    match provider.http.post(provider.token_url()).body(body).send().await {
        Ok(answer) => assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE),
        Err(error) => assert!(error.is_request(), "{error:?}"),
    }
    provider.token().await;
}

#[tokio::test]
async fn one_connection_serves_many_requests() {
    let provider = Provider::new();
    for _ in 0..20 {
        provider.token().await;
    }
    assert_eq!(provider.sts.stats().token, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn shutdown_answers_what_it_has_taken_and_frees_the_port() {
    let folder = tempfile::tempdir().unwrap();
    let sts = Sts::start(Config::new(folder.path())).await.unwrap();
    let http = client(sts.ready());
    let port: u16 =
        sts.ready().control.split(':').nth(2).unwrap().split('/').next().unwrap().parse().unwrap();
    sts.add_fault(Fault::new(Endpoint::Api).delay_ms(200)).unwrap();
    let request = tokio::spawn(http.get(&sts.ready().endpoint).send());
    while sts.stats().api == 0 && !request.is_finished() {
        tokio::task::yield_now().await;
    }
    tokio::join!(sts.shutdown(), sts.wait());
    assert_eq!(request.await.unwrap().unwrap().status(), 401);
    let again = Sts::start(Config::new(folder.path()).port(port)).await.unwrap();
    assert!(again.ready().authority.starts_with(&format!("https://localhost:{port}/")));
    let taken = Sts::start(Config::new(folder.path()).port(port)).await.unwrap_err();
    assert!(taken.to_string().contains(&port.to_string()), "{taken}");
}

#[tokio::test]
async fn serve_runs_until_it_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (send, receive) = tokio::sync::oneshot::channel();
    let tell = move |ready: &strongroom_sts::Ready| drop(send.send(ready.clone()));
    let until = async {
        let ready = receive.await.unwrap();
        assert_eq!(client(&ready).get(&ready.endpoint).send().await.unwrap().status(), 401);
    };
    strongroom_sts::serve(Config::new(folder.path()), tell, until).await.unwrap();
}
