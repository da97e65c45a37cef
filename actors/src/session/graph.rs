//! The whole graph of a session on one screen, and its restart table.
//!
//! ```text
//!   mic ─▶ Vad ─listened─▶ Asr ─(session: turn machine)─▶ Rag ─drafts─▶ Llm ─clauses─▶ Tts ─speech─▶ Enhancer ─frames─▶ playout
//! ```
//!
//! | stage died | restarted with | lost | the caller notices |
//! |---|---|---|---|
//! | Vad | mic lane, "was speaking" | recurrent state | nothing |
//! | Asr | lane, the turn's audio and words | the recognition under way; it is ordered again | a later answer |
//! | Rag | – | the request under way; it is ordered again | a later answer |
//! | Llm | draft lane | the text under way: ordered again if nothing of it is written, else what is written is the reply | a later answer; a shorter one |
//! | Tts | clause lane, the clause being spoken and how far | nothing | a short pause at most |
//! | Enhancer | speech lane | filter state, up to 20 ms of sound | nothing |
//!
//! A stage may die [`RESTARTS_MAX`] times in a session; after that the session ends with an error.

use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use ractor::{Actor, ActorCell, ActorId, ActorRef, SpawnErr};

use crate::director::Director;
use crate::enhancer::Enhancer;
use crate::gpu::Submitter;
use crate::gpu::work::Certain;
use crate::lane::Lane;
use crate::llm::{CLAUSES_LANE, Clause, Llm};
use crate::playout::PlayoutLanes;
use crate::ports::{MIC_LANE, SessionSettings};
use crate::rag::{DraftRequest, Rag, Retriever};
use crate::recorder::Piece;
use crate::tts::{SPEECH_LANE, Speech, Tts};
use crate::types::Stage;
use crate::vad::{Listened, Vad};
use crate::{asr, enhancer, llm, rag, tts, vad};

use super::report::Reporter;

/// Restarts of one stage a session survives: a stage that dies more often has a cause that stays.
pub const RESTARTS_MAX: u32 = 5;

/// Windows between the VAD and the ASR stage: eight seconds, longer than a stage's restart.
const LISTENED_LANE: usize = 256;

/// Draft requests under way: a newer one voids the older.
const DRAFTS_LANE: usize = 2;

/// What outlives the stages.
#[derive(Clone)]
pub struct Lanes {
    /// Caller audio.
    pub mic: Lane<Box<[f32]>>,
    listened: Lane<Listened>,
    drafts: Lane<DraftRequest>,
    clauses: Lane<Clause>,
    speech: Lane<Speech>,
    /// To the playout.
    pub playout: PlayoutLanes,
    memory: asr::SharedMemory,
    current: tts::Current,
    /// The media clock.
    pub clock: Arc<AtomicU64>,
    /// Up to which reply work is certain to be wanted.
    pub certain: Certain,
}

impl Default for Lanes {
    fn default() -> Self {
        Self {
            mic: Lane::new(MIC_LANE),
            listened: Lane::new(LISTENED_LANE),
            drafts: Lane::new(DRAFTS_LANE),
            clauses: Lane::new(CLAUSES_LANE),
            speech: Lane::new(SPEECH_LANE),
            playout: PlayoutLanes::default(),
            memory: asr::SharedMemory::default(),
            current: tts::Current::default(),
            clock: Arc::default(),
            certain: Certain::default(),
        }
    }
}

/// What every stage is started from.
pub struct Soil {
    /// What outlives the stages.
    pub lanes: Lanes,
    /// To the scheduler.
    pub submitter: Submitter,
    /// To the session.
    pub reporter: Reporter,
    /// The RAG hook.
    pub retriever: Arc<dyn Retriever>,
    /// Who decides what is said, if anybody does.
    pub director: Option<Arc<dyn Director>>,
    /// The session itself, which supervises them.
    pub session: ActorCell,
    /// To the recorder, where there is one.
    pub recording: Option<Lane<Piece>>,
}

/// The stages, each restarted by itself.
pub struct Graph {
    /// Finds speech.
    pub vad: ActorRef<vad::Msg>,
    /// Recognises.
    pub asr: ActorRef<asr::Msg>,
    /// Looks up.
    pub rag: ActorRef<rag::Msg>,
    /// Writes.
    pub llm: ActorRef<llm::Msg>,
    /// Speaks.
    pub tts: ActorRef<tts::Msg>,
    /// Evens out.
    pub enhancer: ActorRef<enhancer::Msg>,
}

/// Starts the whole graph, back to front, so that every stage finds its reader there.
pub async fn spawn_graph(soil: &Soil, settings: &SessionSettings) -> Result<Graph, SpawnErr> {
    let enhancer = spawn_enhancer(soil, settings).await?;
    let tts = spawn_tts(soil, settings).await?;
    let llm = spawn_llm(soil).await?;
    let rag = spawn_rag(soil).await?;
    let asr = spawn_asr(soil, settings).await?;
    let vad = spawn_vad(soil, settings, false).await?;
    Ok(Graph { vad, asr, rag, llm, tts, enhancer })
}

async fn spawn_vad(
    soil: &Soil,
    settings: &SessionSettings,
    speaking: bool,
) -> Result<ActorRef<vad::Msg>, SpawnErr> {
    let args = vad::Args {
        mic: soil.lanes.mic.clone(),
        listened: soil.lanes.listened.clone(),
        clock: Arc::clone(&soil.lanes.clock),
        submitter: soil.submitter.clone(),
        reporter: soil.reporter.clone(),
        recording: soil.recording.clone(),
        config: settings.listening.clone(),
        pause_ms: settings.turn.pause_ms,
        speaking,
    };
    Ok(Actor::spawn_linked(None, Vad, args, soil.session.clone()).await?.0)
}

async fn spawn_asr(soil: &Soil, settings: &SessionSettings) -> Result<ActorRef<asr::Msg>, SpawnErr> {
    let args = asr::Args {
        listened: soil.lanes.listened.clone(),
        memory: Arc::clone(&soil.lanes.memory),
        submitter: soil.submitter.clone(),
        reporter: soil.reporter.clone(),
        config: settings.listening.clone(),
        language: settings.language.clone(),
    };
    Ok(Actor::spawn_linked(None, asr::Asr, args, soil.session.clone()).await?.0)
}

async fn spawn_rag(soil: &Soil) -> Result<ActorRef<rag::Msg>, SpawnErr> {
    let args = rag::Args {
        drafts: soil.lanes.drafts.clone(),
        retriever: Arc::clone(&soil.retriever),
        director: soil.director.clone(),
    };
    Ok(Actor::spawn_linked(None, Rag, args, soil.session.clone()).await?.0)
}

async fn spawn_llm(soil: &Soil) -> Result<ActorRef<llm::Msg>, SpawnErr> {
    let args = llm::Args {
        drafts: soil.lanes.drafts.clone(),
        clauses: soil.lanes.clauses.clone(),
        submitter: soil.submitter.clone(),
        reporter: soil.reporter.clone(),
        director: soil.director.clone(),
    };
    Ok(Actor::spawn_linked(None, Llm, args, soil.session.clone()).await?.0)
}

async fn spawn_tts(soil: &Soil, settings: &SessionSettings) -> Result<ActorRef<tts::Msg>, SpawnErr> {
    let args = tts::Args {
        clauses: soil.lanes.clauses.clone(),
        speech: soil.lanes.speech.clone(),
        frames: soil.lanes.playout.frames.clone(),
        current: Arc::clone(&soil.lanes.current),
        certain: soil.lanes.certain.clone(),
        submitter: soil.submitter.clone(),
        reporter: soil.reporter.clone(),
        style: settings.voice.style.clone(),
        language: settings.language.clone(),
    };
    Ok(Actor::spawn_linked(None, Tts, args, soil.session.clone()).await?.0)
}

async fn spawn_enhancer(
    soil: &Soil,
    settings: &SessionSettings,
) -> Result<ActorRef<enhancer::Msg>, SpawnErr> {
    let args = enhancer::Args {
        speech: soil.lanes.speech.clone(),
        frames: soil.lanes.playout.frames.clone(),
        reporter: soil.reporter.clone(),
        gain: settings.voice.gain,
    };
    Ok(Actor::spawn_linked(None, Enhancer, args, soil.session.clone()).await?.0)
}

impl Graph {
    /// Which stage has that id.
    pub fn stage_of(&self, id: ActorId) -> Option<Stage> {
        let ids = [
            (self.vad.get_id(), Stage::Vad),
            (self.asr.get_id(), Stage::Asr),
            (self.rag.get_id(), Stage::Rag),
            (self.llm.get_id(), Stage::Llm),
            (self.tts.get_id(), Stage::Tts),
            (self.enhancer.get_id(), Stage::Enhancer),
        ];
        ids.into_iter().find(|(i, _)| *i == id).map(|(_, stage)| stage)
    }

    /// Starts one stage again.
    pub async fn restart(
        &mut self,
        stage: Stage,
        soil: &Soil,
        settings: &SessionSettings,
        speaking: bool,
    ) -> Result<(), SpawnErr> {
        match stage {
            Stage::Vad => self.vad = spawn_vad(soil, settings, speaking).await?,
            Stage::Asr => self.asr = spawn_asr(soil, settings).await?,
            Stage::Rag => self.rag = spawn_rag(soil).await?,
            Stage::Llm => self.llm = spawn_llm(soil).await?,
            Stage::Tts => self.tts = spawn_tts(soil, settings).await?,
            Stage::Enhancer => self.enhancer = spawn_enhancer(soil, settings).await?,
        }
        Ok(())
    }

    /// Makes a stage fail, to see the restart table at work.
    #[cfg(any(test, feature = "testkit"))]
    pub fn panic(&self, stage: Stage) {
        match stage {
            Stage::Vad => self.vad.cast(vad::Msg::Panic).ok(),
            Stage::Asr => self.asr.cast(asr::Msg::Panic).ok(),
            Stage::Rag => self.rag.cast(rag::Msg::Panic).ok(),
            Stage::Llm => self.llm.cast(llm::Msg::Panic).ok(),
            Stage::Tts => self.tts.cast(tts::Msg::Panic).ok(),
            Stage::Enhancer => self.enhancer.cast(enhancer::Msg::Panic).ok(),
        };
    }
}
