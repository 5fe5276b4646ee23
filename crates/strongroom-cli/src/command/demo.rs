//! `strongroom demo`: the scenario in one command.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use comfy_table::{ContentArrangement, Table, presets};
use serde::{Deserialize, Serialize};
use strongroom::persistence::{self, Kind};
use strongroom::{HttpRequest, KeySelector, Transport, block_on};
use strongroom_sts::{Ready, RunningSts};

use super::{sts, token};
use crate::args::{Demo, Global, Output};
use crate::cache::once;
use crate::config::Config;
use crate::env_vars;
use crate::failure::Failure;
use crate::output;

/// What one run of the daemon was like.
#[derive(Serialize)]
struct Run {
    run: u32,
    token_source: String,
    token_requests: u64,
    discovery_requests: u64,
    api_status: u16,
    encrypted: bool,
    milliseconds: f64,
}

/// What the daemon says at its end.
#[derive(Serialize, Deserialize)]
struct Report {
    token_source: String,
    api_status: u16,
    encrypted: bool,
}

pub(crate) fn run(options: &Demo, global: &Global) -> Result<(), Failure> {
    match options.daemon.as_deref() {
        Some([config, cache, ca]) => daemon(config, cache, ca, global),
        _ => demonstrate(options, global.output),
    }
}

fn demonstrate(options: &Demo, format: Output) -> Result<(), Failure> {
    let folder = sts::temporary_folder()?;
    let running = Running::default();
    end_when_interrupted(&running, folder.path().to_owned())?;
    let provider = {
        // It writes into the folder until it runs.
        let _undisturbed = running.lock();
        strongroom_sts::spawn(strongroom_sts::Config::new(folder.path().join("sts"))).map_err(sts::failure)?
    };
    let cache = folder.path().join("cache").join("token_cache.bin");
    if format != Output::Json {
        output::note(&format!(
            "identity provider  {} (local, for this demonstration)",
            provider.ready().authority
        ));
        output::note(&format!("token cache        {} (empty)\n", cache.display()));
    }
    let runs: Vec<Run> = (1..=options.runs)
        .map(|number| one_run(number, &provider, &cache, &running))
        .collect::<Result<_, _>>()?;
    drop(provider);
    let _undisturbed = running.lock();
    folder.close().map_err(|error| {
        Failure::other("left_behind", format!("the temporary folder cannot be removed: {error}"))
    })?;
    match format {
        Output::Json => output::json(&runs),
        _ => output::write_all(&summary(&runs)),
    }
}

/// Starts the daemon as a process of its own, as cron would, and counts what the provider saw of it.
fn one_run(number: u32, provider: &RunningSts, cache: &Path, running: &Running) -> Result<Run, Failure> {
    let failed =
        |problem: String| Failure::other("demo_failed", format!("run {number} of the daemon {problem}"));
    let Ready { config_file, ca_file, .. } = provider.ready();
    let program = std::env::current_exe().map_err(|error| failed(format!("cannot be started: {error}")))?;
    let mut daemon = Command::new(program);
    daemon
        .args(["demo", "--daemon"])
        .args([config_file.as_path(), cache, ca_file.as_path()])
        .env(env_vars::STRONGROOM_STATE_DIR, cache.with_file_name("state"))
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    // Ctrl-C at a terminal is for the demonstration, which ends the daemon.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut daemon, 0);
    provider.reset();
    let began = Instant::now();
    let (status, said) =
        running.wait_for(&mut daemon).map_err(|error| failed(format!("cannot be run: {error}")))?;
    let milliseconds = began.elapsed().as_secs_f64() * 1000.0;
    if !status.success() {
        return Err(failed(format!("failed ({status})")));
    }
    let report: Report =
        serde_json::from_slice(&said).map_err(|error| failed(format!("said something else: {error}")))?;
    let seen = provider.stats();
    Ok(Run {
        run: number,
        token_source: report.token_source,
        token_requests: seen.token,
        discovery_requests: seen.discovery + seen.openid_configuration,
        api_status: report.api_status,
        encrypted: report.encrypted,
        milliseconds: (milliseconds * 10.0).round() / 10.0,
    })
}

/// The daemon: gets a token, calls the API, ends.
fn daemon(config: &Path, cache: &Path, ca: &Path, global: &Global) -> Result<(), Failure> {
    let config = Config::load(Some(config), &[])?;
    // The key too lies in the folder that is removed.
    let persistence = persistence::builder(cache).kind(Kind::Sealed).key_source(KeySelector::Host).build()?;
    let cache = once(persistence, None, global);
    let app = token::application(&config, cache, Some(ca.to_owned()), global).build()?;
    let result = app.acquire_token_for_client(config.scopes).blocking()?;

    let endpoint = config
        .endpoint
        .ok_or_else(|| Failure::usage("incomplete_config", "no endpoint is given", "set \"endpoint\""))?;
    let transport =
        token::transport_with_roots(ca).map_err(|reason| Failure::other("no_trust_root", reason))?;
    let mut request = HttpRequest::get(&endpoint);
    request.headers.push(("authorization", result.authorization_header().expose().to_owned()));
    let answer = block_on(transport.send(request)).map_err(strongroom::Error::from)?;
    output::json(&Report {
        token_source: result.token_source().as_str().into(),
        api_status: answer.status,
        encrypted: app.token_cache().info().protection.is_encrypted(),
    })
}

fn summary(runs: &[Run]) -> String {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["RUN", "TOKEN FROM", "TOKEN REQUESTS", "DISCOVERY", "SAMPLE API", "ENCRYPTED", "TIME"]);
    for run in runs {
        table.add_row([
            run.run.to_string(),
            run.token_source.replace('_', " "),
            run.token_requests.to_string(),
            run.discovery_requests.to_string(),
            run.api_status.to_string(),
            if run.encrypted { "yes" } else { "no" }.to_owned(),
            format!("{:.1} ms", run.milliseconds),
        ]);
    }
    let requests: u64 = runs.iter().map(|run| run.token_requests).sum();
    let noun = if requests == 1 { "request" } else { "requests" };
    format!(
        "{table}\n\n{} runs of a daemon, {requests} token {noun}. Each run was a process of its own; \
         the time includes its start and the call of the API.\n",
        runs.len()
    )
}

/// The daemon that runs at this moment. Who interrupts the demonstration keeps the lock to the end of the process:
/// from then on nothing is started, written or said.
#[derive(Clone, Default)]
struct Running(Arc<Mutex<Option<Child>>>);

impl Running {
    fn lock(&self) -> MutexGuard<'_, Option<Child>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs a program to its end; what it said on stdout.
    fn wait_for(&self, program: &mut Command) -> io::Result<(ExitStatus, Vec<u8>)> {
        let stdout = self.lock().insert(program.spawn()?).stdout.take();
        let mut said = Vec::new();
        if let Some(mut stdout) = stdout {
            stdout.read_to_end(&mut said)?;
        }
        let mut running = self.lock();
        let ended = running.as_mut().map(Child::wait);
        *running = None;
        Ok((ended.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))?, said))
    }
}

/// The demonstration leaves nothing behind, not even when it is stopped with Ctrl-C.
fn end_when_interrupted(running: &Running, folder: PathBuf) -> Result<(), Failure> {
    let failed =
        |error: io::Error| Failure::other("no_runtime", format!("no thread can be started: {error}"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().map_err(failed)?;
    let interrupted = {
        let _context = runtime.enter();
        sts::interrupted()?
    };
    let running = running.clone();
    std::thread::Builder::new()
        .name("interrupted".into())
        .spawn(move || {
            runtime.block_on(interrupted);
            let mut running = running.lock();
            if let Some(daemon) = running.as_mut() {
                // Else it could write into the folder while that is removed.
                let _ = daemon.kill();
                let _ = daemon.wait();
            }
            let _ = std::fs::remove_dir_all(folder);
            std::process::exit(130);
        })
        .map_err(failed)?;
    Ok(())
}
