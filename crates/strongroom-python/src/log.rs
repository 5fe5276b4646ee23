//! The library's log records, handed to Python's `logging` under the logger `strongroom`.

use std::fmt::{self, Write as _};

use pyo3::intern;
use pyo3::prelude::*;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::subscriber::set_global_default;
use tracing::{Event, Level, Metadata, Subscriber};

use crate::attach::{attached, call};

/// Hands all that the library has to say from now on to `logging`.
pub(crate) fn install() {
    // It fails where it is done already: the module is made anew in each interpreter that is started one after another.
    let _ = set_global_default(ToLogging);
}

struct ToLogging;

impl Subscriber for ToLogging {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        *metadata.level() <= Level::DEBUG && metadata.target().split("::").next() == Some("strongroom")
    }

    fn max_level_hint(&self) -> Option<tracing::level_filters::LevelFilter> {
        Some(tracing::level_filters::LevelFilter::DEBUG)
    }

    fn event(&self, event: &Event<'_>) {
        let level: u8 = match *event.metadata().level() {
            Level::ERROR => 40,
            Level::WARN => 30,
            Level::INFO => 20,
            _ => 10,
        };
        let logger = event.metadata().target().replace("::", ".");
        // Threads of the library may still have something to say when Python ends.
        let _ = attached(|py| {
            let logged = logging_for(py, level).and_then(|logging| {
                let Some(logging) = logging else { return Ok(()) };
                let logger = logging.call_method1("getLogger", (logger,))?;
                if logger.call_method1("isEnabledFor", (level,))?.is_truthy()? {
                    // Handlers are the program's, and may wait.
                    let record = (level, "%s", Text::of(event).0).into_pyobject(py)?;
                    call(&logger.getattr(intern!(py, "log"))?, record)?;
                }
                Ok(())
            });
            if let Err(error) = logged {
                error.write_unraisable(py, None);
            }
        });
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

/// Python's `logging`. Whoever has not imported it has set nothing up: then it shows warnings, and nothing below, so for
/// those it need not be imported, which would take longer than a token from the cache.
fn logging_for(py: Python<'_>, level: u8) -> PyResult<Option<Bound<'_, PyModule>>> {
    const WARNING: u8 = 30;

    let is_there = py.import("sys")?.getattr("modules")?.contains("logging")?;
    if is_there || level >= WARNING { py.import("logging").map(Some) } else { Ok(None) }
}

/// The message of an event, its fields after it.
struct Text(String);

impl Text {
    fn of(event: &Event<'_>) -> Self {
        struct Fields {
            message: String,
            others: String,
        }
        impl Visit for Fields {
            fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
                // Writing to a String does not fail.
                let _ = match field.name() {
                    "message" => write!(self.message, "{value:?}"),
                    name => write!(self.others, " {name}={value:?}"),
                };
            }
        }
        let mut fields = Fields { message: String::new(), others: String::new() };
        event.record(&mut fields);
        Self(fields.message + &fields.others)
    }
}
