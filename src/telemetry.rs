//! What operators see: the log on standard error, the metrics for Prometheus.

use std::io::IsTerminal;

use metrics_exporter_prometheus::{BuildError, Matcher, PrometheusBuilder, PrometheusHandle};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{LogFormat, LogSection};

/// Buckets of everything that is measured in milliseconds: fine where a caller hears the difference
/// (100 ms to 2 s), coarse below (queues, steps) and above (trouble).
const LATENCY_MS: [f64; 20] = [
    0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 150.0, 200.0, 300.0, 400.0, 600.0, 850.0, 1_100.0, 1_500.0,
    2_000.0, 3_000.0, 5_000.0, 10_000.0,
];

/// Buckets of batch sizes: powers of two up to the scheduler's largest batch.
const BATCH: [f64; 7] = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0];

/// What the WebRTC stack may say: it tells every step of every connection, and two of its layers warn once a
/// connection of what is as it should be (an SCTP server without settings, a DTLS peer not known yet).
const WEBRTC_STACK: &str = "rtc=warn,rtc_ice=warn,rtc_dtls=error,rtc_sctp=error,webrtc=warn";

/// Starts the log. `RUST_LOG` goes before the configuration's level.
pub fn init_log(log: &LogSection) -> Result<(), TryInitError> {
    let filter = EnvFilter::try_from_default_env()
        .unwrap_or_else(|_| EnvFilter::new(format!("{},{WEBRTC_STACK}", log.level)));
    let registry = tracing_subscriber::registry().with(filter);
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match log.format {
        LogFormat::Json => registry.with(layer.json().flatten_event(true)).try_init(),
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal();
            registry.with(layer.with_ansi(colours).with_target(false)).try_init()
        }
    }
}

/// Installs the process's metrics recorder with the names and help texts of [`viva_actors::metrics`].
/// `/metrics` renders the handle.
pub fn init_metrics() -> Result<PrometheusHandle, BuildError> {
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_ms".into()), &LATENCY_MS)?
        .set_buckets_for_metric(Matcher::Full(viva_actors::metrics::BATCH_SIZE.into()), &BATCH)?
        .set_buckets_for_metric(Matcher::Full(viva_actors::metrics::LLM_STEP_SEQUENCES.into()), &BATCH)?
        .install_recorder()?;
    describe();
    Ok(handle)
}

/// The exporter drops histogram samples it does not need any more only when it is asked to, this often.
pub const UPKEEP: std::time::Duration = std::time::Duration::from_secs(5);

fn describe() {
    for (name, help) in viva_actors::metrics::ALL {
        if name.ends_with("_total") {
            metrics::describe_counter!(*name, *help);
        } else if *name == viva_actors::metrics::SESSIONS {
            metrics::describe_gauge!(*name, *help);
        } else {
            metrics::describe_histogram!(*name, *help);
        }
    }
}
