//! `strongroom sts`.

use strongroom_sts::{Config, Ready, StsError};
use tempfile::TempDir;

use crate::args::{Global, Output, Sts};
use crate::failure::Failure;
use crate::output;

pub(crate) fn run(options: &Sts, global: &Global) -> Result<(), Failure> {
    let temporary = match options.state {
        Some(_) => None,
        None => Some(temporary_folder()?),
    };
    let folder = options
        .state
        .as_deref()
        .or(temporary.as_ref().map(TempDir::path))
        .unwrap_or_else(|| unreachable!("a folder is either given or made"));
    let mut config = Config::new(folder).port(options.port);
    if let Some(tenant) = &options.tenant {
        config = config.tenant(tenant);
    }
    let runtime = tokio::runtime::Runtime::new()
        .map_err(|error| Failure::other("no_runtime", format!("no thread can be started: {error}")))?;
    let mut announced = Ok(());
    runtime.block_on(async {
        let until = interrupted()?;
        strongroom_sts::serve(config, |ready| announced = announce(ready, global.output), until)
            .await
            .map_err(failure)
    })?;
    announced
}

/// What went wrong with the provider.
pub(crate) fn failure(error: StsError) -> Failure {
    Failure::other("sts_failed", error.to_string())
}

pub(crate) fn temporary_folder() -> Result<TempDir, Failure> {
    tempfile::Builder::new()
        .prefix("strongroom-")
        .tempdir()
        .map_err(|error| Failure::other("no_temporary_folder", format!("no temporary folder: {error}")))
}

/// Completes when the process is asked to end.
pub(crate) fn interrupted() -> Result<impl Future<Output = ()>, Failure> {
    let failed = |error| Failure::other("no_signals", format!("signals cannot be received: {error}"));
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut interrupt = signal(SignalKind::interrupt()).map_err(failed)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(failed)?;
        Ok(async move {
            std::future::poll_fn(|context| {
                if interrupt.poll_recv(context).is_ready() || terminate.poll_recv(context).is_ready() {
                    std::task::Poll::Ready(())
                } else {
                    std::task::Poll::Pending
                }
            })
            .await;
        })
    }
    #[cfg(not(unix))]
    {
        let mut interrupt = tokio::signal::windows::ctrl_c().map_err(failed)?;
        Ok(async move {
            interrupt.recv().await;
        })
    }
}

fn announce(ready: &Ready, format: Output) -> Result<(), Failure> {
    output::note(
        "A local identity provider for DEVELOPMENT is ready. Its tokens are worth nothing elsewhere.",
    );
    if format == Output::Json {
        return output::json(ready);
    }
    let certificate = match (&ready.certificate_file, &ready.private_key_file) {
        (Some(certificate), Some(key)) => {
            format!("certificate    {}\nprivate key    {}\n", certificate.display(), key.display())
        }
        _ => String::new(),
    };
    output::write_all(&format!(
        "\nauthority      {}\n\
         client_id      {}\n\
         client_secret  {}\n\
         {}\
         scope          {}\n\
         sample API     {}\n\
         trust root     {}\n\
         configuration  {}\n\
         control        {}\n\n\
         Try:\n  strongroom token --config {} --ca-file {} --cache token_cache.bin\n\n\
         Ctrl-C ends it.\n",
        ready.authority,
        ready.client_id,
        ready.client_secret,
        certificate,
        ready.scope,
        ready.endpoint,
        ready.ca_file.display(),
        ready.config_file.display(),
        ready.control,
        ready.config_file.display(),
        ready.ca_file.display(),
    ))
}
