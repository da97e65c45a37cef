//! `viva serve`: the server.

use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use clap::{Args, ValueEnum};
use futures_util::future::Either;
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use viva_actors::ahead;
use viva_actors::gpu::Engines;
use viva_actors::gpu::policy::Discipline;
use viva_actors::ports::SessionSpec;
use viva_actors::recorder::check_folder;
use viva_actors::recorder::sweep::keep_sweeping;
use viva_actors::root::{Limits, Viva};
use viva_actors::testkit;
use viva_models::EngineError;
use viva_models::registry::{EmbedSpec, find_binary, open_vad};
use viva_models::tts::spoken::Spoken;

use crate::config::{Config, Flags};
use crate::edge::http::{App, serve};
use crate::edge::parking::Parking;
use crate::edge::protocol::session_object::Offer;
use crate::edge::tls::{Certificate, TlsListener};
use crate::edge::webrtc::WebRtc;
use crate::edge::webrtc::impair::Impairment;
use crate::engines::Chosen;
use crate::identity::Identity;
use crate::interview::book::Book;
use crate::interview::find::{Indexed, Plain};
use crate::knowledge::Knowledge;
use crate::knowledge::embedding::Scheduled;
use crate::knowledge::publish::Published;
use crate::{presets, telemetry};

/// How often the start looks whether the engines are up.
const READY_CHECK: Duration = Duration::from_millis(50);

/// How long engines may take to load: large weights from a cold disk take a minute or two.
const READY_WITHIN: Duration = Duration::from_secs(300);

/// How long the others may go on loading when one engine could not be opened. ONNX Runtime crashes when the
/// process ends while it loads a model, which takes it a second.
const SETTLE_WITHIN: Duration = Duration::from_secs(10);

/// What the fake language model always says: as long as a spoken reply of a real one.
const FAKE_REPLY: &str = "Thank you, that is good to hear. What was the hardest part of it?";

/// What stubs cost, in milliseconds: so little that a hundred callers do not wait for each other.
const STUB_COSTS: testkit::Costs =
    testkit::Costs { asr_ms: 5, turn_ms: 1, prefill_ms: 1, step_ms: 1, tts_ms: 5 };

/// Serve conversations.
#[derive(Debug, Clone, Args)]
pub struct ServeArgs {
    /// Address and port to listen on; port 0 takes a free one [default: 127.0.0.1:8790]
    #[arg(long, env = "VIVA_LISTEN", value_name = "ADDR")]
    pub listen: Option<SocketAddr>,
    /// Weights to run on: default, test, quality, gpu48 [default: default]
    #[arg(long, env = "VIVA_PROFILE", value_name = "NAME")]
    pub profile: Option<String>,
    /// Configuration (TOML); viva.example.toml documents every key
    #[arg(long, env = "VIVA_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Folder of the weights
    #[arg(long, env = "VIVA_MODELS", value_name = "DIR")]
    pub models: Option<PathBuf>,
    /// File of API keys, which `viva keys` manages
    #[arg(long, env = "VIVA_IDENTITY_KEYS", value_name = "FILE")]
    pub keys: Option<PathBuf>,
    /// Speak TLS with a certificate made at the start
    #[arg(long, value_enum, value_name = "HOW")]
    pub tls: Option<TlsChoice>,
    /// `fake` runs on the test kit's engines, which cost time and need no weights
    #[arg(long, hide = true, value_enum, default_value_t = EngineChoice::Real)]
    pub engines: EngineChoice,
    /// In which order work is done, for measurements
    #[arg(long, hide = true, value_enum, default_value = "viva")]
    pub policy: PolicyChoice,
    /// A bad network for WebRTC, for tests: loss=0.05,jitter=60,delay=20
    #[arg(long, hide = true, value_name = "FAULTS")]
    pub impair: Option<Impairment>,
}

/// In which order work is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum PolicyChoice {
    /// The scheduler's.
    #[default]
    Viva,
    /// What servers do that do not schedule: a baseline to measure against.
    Arrival,
}

/// How to speak TLS, beside [tls] in the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum TlsChoice {
    /// With a certificate that is made at the start.
    SelfSigned,
}

/// Which engines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum EngineChoice {
    /// The configuration's.
    Real,
    /// The test kit's.
    Fake,
    /// The test kit's at next to no cost, but with the configuration's voice-activity detector: what calls
    /// cost beside the engines.
    Stub,
}

impl ServeArgs {
    /// The configuration these arguments name.
    pub fn load(&self) -> anyhow::Result<Config> {
        let flags = Flags {
            listen: self.listen,
            profile: self.profile.clone(),
            models: self.models.clone(),
            keys: self.keys.clone(),
            self_signed: self.tls == Some(TlsChoice::SelfSigned),
        };
        let config = Config::load(self.config.as_deref(), &flags, |name| std::env::var(name).ok())?;
        Ok(config)
    }
}

/// Serves until SIGTERM or Ctrl-C.
pub async fn run(args: ServeArgs) -> anyhow::Result<()> {
    let config = args.load()?;
    telemetry::init_log(&config.log).context("the log could not be started")?;
    let identity = Identity::of(&config.identity, &config.tiers)?;
    say_who_may_come(&config, identity.as_ref());
    let metrics = telemetry::init_metrics().context("the metrics could not be started")?;
    let mut spec = config.session_spec();
    let EngineRoom { mut engines, voice, embedder } = engines(&config, args.engines, &mut spec)?;
    if args.policy == PolicyChoice::Arrival {
        tracing::warn!("work is done in the order of arrival, which is slow on purpose: a baseline");
        engines.order.discipline = Discipline::Arrival;
    }
    let voice = presets::give_voice(&mut spec, voice);
    if let Some(folder) = &spec.recordings {
        check_folder(folder).map_err(|error| {
            anyhow!(
                "{error}; let recordings.dir in the configuration name a folder that this user may write to, \
                 on a disk with room, or leave it empty to keep no recordings"
            )
        })?;
    }
    // The port first: who cannot listen need not load a gigabyte to find out.
    let listener = listen(config.server.listen).await?;
    let certificate = Certificate::of(&config.tls, config.server.listen.ip())?;
    let address = listener.local_addr().context("the listener has no address")?;
    if let Some(folder) = spec.recordings.clone() {
        tokio::spawn(keep_sweeping(folder, spec.retention));
    }
    let spoken = engines.spoken.clone().filter(|_| args.policy == PolicyChoice::Viva);
    let limits = Limits { sessions: config.server.sessions_max, late_ms_max: config.server.late_ms_max };
    let viva = Viva::start(engines, limits).await.context("the engines could not be started")?;
    if let Some(spoken) = spoken {
        tokio::spawn(lines_ahead(viva.clone(), spoken, spec.clone()));
    }
    let offer =
        Offer { model: "viva".into(), voices: vec![voice], spec, session_s_max: config.server.session_s_max };
    let loopback = address.ip().is_loopback();
    let webrtc = match config.webrtc.enabled {
        true => {
            let edge = WebRtc::start(&config.webrtc, address, Arc::clone(viva.lateness()), args.impair);
            let hint = "WebRTC cannot listen; webrtc.listen in the configuration names its UDP addresses";
            Some(Arc::new(edge.context(hint)?))
        }
        false => None,
    };
    let knowledge = match embedder {
        Some(embedder) => Some(knowledge(&config, &viva, embedder).await?),
        None => None,
    };
    let mut app = App::new(viva, offer, config.server.origins.clone(), loopback);
    app.identity = identity;
    app.webrtc = webrtc;
    app.interviews = Arc::new(match &knowledge {
        Some(knowledge) => Book::new(Arc::new(Indexed::new(knowledge.clone(), Plain::own()))),
        None => Book::of_bank(),
    });
    app.knowledge = knowledge;
    app.parking = Parking::new(Duration::from_secs(config.webrtc.resume_s));
    app.metrics = Some(metrics.clone());
    let app = Arc::new(app);
    tokio::spawn(async move {
        let mut tick = tokio::time::interval(telemetry::UPKEEP);
        loop {
            tick.tick().await;
            metrics.run_upkeep();
        }
    });
    let stop = stop_asked().context("signals cannot be received")?;
    let drain = Duration::from_secs(config.server.drain_s);
    // It serves while the engines load, so that probes see what is missing.
    let (scheme, serving) = match certificate {
        None => ("http", Either::Left(serve(listener, Arc::clone(&app), stop, drain))),
        Some(certificate) => {
            tracing::info!(sha256 = certificate.fingerprint(), "the certificate");
            let listener = TlsListener::new(listener, certificate)?;
            ("https", Either::Right(serve(listener, Arc::clone(&app), stop, drain)))
        }
    };
    let starting = async {
        match announce(&app, scheme, address).await {
            Ok(()) => std::future::pending().await,
            Err(error) => error,
        }
    };
    tokio::select! {
        served = serving => served.context("the server failed")?,
        error = starting => return Err(error),
    }
    tracing::info!("ended");
    Ok(())
}

/// Who is asked for what, so that nobody finds out by chance.
fn say_who_may_come(config: &Config, identity: Option<&Identity>) {
    match identity {
        Some(identity) if identity.keys() == Some(0) && config.identity.jwks.is_empty() => tracing::warn!(
            file = config.identity.keys,
            "there is no API key yet, so nobody can call; make one with: viva keys add NAME"
        ),
        Some(identity) => {
            tracing::info!(
                keys = identity.keys(),
                tokens = !config.identity.jwks.is_empty(),
                "callers need a key"
            );
        }
        None if config.identity.open => {
            tracing::warn!("identity.open: whoever reaches this server is served, without a key");
        }
        None => tracing::info!("no API keys are needed, and only this machine is served"),
    }
}

/// The engines, and what others must know of them.
struct EngineRoom {
    engines: Engines,
    /// The voice's name.
    voice: String,
    /// The embedder's name; none where nothing can be looked up.
    embedder: Option<String>,
}

/// The engines. What they can hold bounds what a session may ask.
fn engines(config: &Config, choice: EngineChoice, spec: &mut SessionSpec) -> anyhow::Result<EngineRoom> {
    let fake = |engines| Ok(EngineRoom { engines, voice: "fake".into(), embedder: None });
    if choice == EngineChoice::Fake {
        return fake(testkit::engines(testkit::Costs::SMALL_CPU, FAKE_REPLY, &Arc::default()));
    }
    let chosen = Chosen::of(config)?;
    if choice == EngineChoice::Stub {
        let vad = chosen.vad.clone();
        let opener = Arc::new(move || open_vad(&vad));
        return fake(testkit::engines_with_vad(STUB_COSTS, FAKE_REPLY, opener));
    }
    for program in chosen.programs() {
        find_binary(program)?;
    }
    let voice = chosen.voice_name();
    spec.prompt_chars_max = chosen.prompt_chars_max(spec.voice.sampling.max_tokens);
    let embedder = chosen.embed.as_ref().filter(|_| config.knowledge.enabled).map(EmbedSpec::name);
    if embedder.is_none() && config.knowledge.enabled {
        tracing::warn!(
            "no question can be looked up: there is neither [engines.embed] nor the profile's weights"
        );
    }
    Ok(EngineRoom { engines: chosen.engines(), voice, embedder })
}

/// The bank, as far as it is indexed. What is missing of an index on this machine is made behind the callers'
/// backs, and until then the one before answers; one that many machines share is made by whoever runs them.
async fn knowledge(config: &Config, viva: &Viva, embedder: String) -> anyhow::Result<Knowledge> {
    let embedding = Arc::new(Scheduled::new(viva.clone(), embedder));
    let knowledge = Knowledge::open_to_publish(config, embedding).await.context(
        "the bank of questions cannot be opened; knowledge.enabled = false in the configuration does without",
    )?;
    if config.knowledge.postgres.is_empty() {
        tokio::spawn(keep_indexed(viva.clone(), knowledge.clone()));
    }
    Ok(knowledge)
}

/// Has what interviewers say to everybody spoken before anybody asks for it.
async fn lines_ahead(viva: Viva, spoken: Arc<Spoken>, spec: SessionSpec) {
    let lines = presets::lines(&spec.language);
    let jobs = ahead::clauses(&lines, &spec.voice.style, &spec.language);
    while !viva.readiness().ready {
        tokio::time::sleep(READY_LOOK).await;
    }
    let made = ahead::speak_ahead(&viva, &spoken, jobs).await;
    if made > 0 {
        tracing::info!(lines = made, "what interviewers say to everybody was spoken ahead");
    }
}

/// How often we look whether callers can be taken.
const READY_LOOK: Duration = Duration::from_millis(250);

/// Makes the index where it is missing or out of date.
async fn keep_indexed(viva: Viva, knowledge: Knowledge) {
    // Not before callers can be taken: what must not start has its own last word, and engines load quicker alone.
    while !viva.readiness().ready {
        tokio::time::sleep(READY_LOOK).await;
    }
    let began = Instant::now();
    let mut silent = true;
    let told = |_| {
        if std::mem::take(&mut silent) {
            tracing::info!(
                "the index of questions is made now, behind all other work; it takes some minutes"
            );
        }
    };
    match knowledge.publish(false, told).await {
        Ok(Published::UpToDate(edition)) => {
            tracing::info!(questions = edition.rows, edition = %edition.short(), "the index of questions is up to date");
        }
        Ok(Published::Fresh(edition)) => tracing::info!(
            questions = edition.rows,
            edition = %edition.short(),
            seconds = began.elapsed().as_secs(),
            "the index of questions is ready"
        ),
        Err(error) => {
            tracing::error!(%error, "the index of questions was not made; what was there before stays in use");
        }
    }
}

/// Binds, or says what is in the way.
pub async fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    match TcpListener::bind(address).await {
        Ok(listener) => Ok(listener),
        Err(error) if error.kind() == ErrorKind::AddrInUse => bail!(
            "cannot listen on {address}: the port is in use; end what uses it, or choose another with \
             --listen {}:0",
            address.ip()
        ),
        Err(error) if error.kind() == ErrorKind::PermissionDenied => {
            bail!(
                "cannot listen on {address}: ports below 1024 need a privilege; choose another with --listen"
            )
        }
        Err(error) => Err(error).with_context(|| format!("cannot listen on {address}")),
    }
}

/// Says where we are once the engines are up; fails when they do not come up at all.
async fn announce(app: &App, scheme: &str, address: SocketAddr) -> anyhow::Result<()> {
    match tokio::time::timeout(READY_WITHIN, ready(&app.viva)).await {
        Ok(ready) => ready?,
        Err(_) => {
            let engines = app.viva.readiness().engines;
            let down: Vec<&str> = engines.iter().filter(|e| !e.up).map(|e| e.kind).collect();
            bail!(
                "not ready within {} s; these engines did not come up: {}; the log says why, and viva doctor \
                 what to do",
                READY_WITHIN.as_secs(),
                down.join(", ")
            );
        }
    }
    let mut out = std::io::stdout().lock();
    // Whoever closed our standard output does not want to know.
    writeln!(out, "listening on {scheme}://{address}").ok();
    writeln!(out, "open {scheme}://{address}/ in a browser, allow the microphone, and say hello").ok();
    out.flush().ok();
    Ok(())
}

/// Waits until all engines are up, or none is still being opened and some could not be.
async fn ready(viva: &Viva) -> anyhow::Result<()> {
    let mut refused_at = None;
    loop {
        let readiness = viva.readiness();
        if readiness.ready {
            return Ok(());
        }
        let refused = readiness.engines.iter().find_map(|e| Some((e.kind, e.refused.as_ref()?)));
        if let Some((kind, why)) = refused {
            let settled = readiness.engines.iter().all(|e| e.up || e.refused.is_some());
            let since: Instant = *refused_at.get_or_insert_with(Instant::now);
            if settled || since.elapsed() > SETTLE_WITHIN {
                return Err(cannot_open(kind, why));
            }
        }
        tokio::time::sleep(READY_CHECK).await;
    }
}

/// What is wrong and what to do about it. An engine that was refused at the start stays so: a server that
/// goes on without it could take nobody.
fn cannot_open(kind: &str, why: &EngineError) -> anyhow::Error {
    match why {
        EngineError::Invalid(why) => anyhow!(
            "the {kind} engine cannot be opened: {why}; where a file is damaged, viva models verify names it \
             and viva models pull brings it again"
        ),
        other => anyhow!("the {kind} engine does not start: {other}; run: viva doctor"),
    }
}

/// Ends with the first SIGTERM or Ctrl-C.
fn stop_asked() -> std::io::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}
