//! One model, one context, many sequences in one unified cache.

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU32;

use llama_cpp_2::DecodeError;
use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::context::params::LlamaContextParams;
use llama_cpp_2::llama_backend::LlamaBackend;
use llama_cpp_2::llama_batch::LlamaBatch;
use llama_cpp_2::model::params::LlamaModelParams;
use llama_cpp_2::model::{LlamaChatTemplate, LlamaModel};
use llama_cpp_2::token::LlamaToken;
use viva_models::registry::LlamaSpec;
use viva_models::{
    Begun, EngineError, Llm, LlmInfo, Prompt, Result, Sampling, SeqId, StepEvent, StepPlan, StopReason,
};

use crate::answer::Answer;
use crate::cache::{Cache, KEEPERS};
use crate::ending::Endings;
use crate::prompt::{template_of, tokenise};

/// Tokens one step may compute. A step cannot be interrupted: 512 are 0.7 s with SmolLM2 on one core, and
/// whoever plans steps asks for far fewer.
const BATCH_TOKENS: usize = 512;

/// llama.cpp's own limit on sequences.
const _: () = assert!(LlamaSpec::SEQUENCES_MAX + KEEPERS == 256);

/// llama.cpp behind the contract.
pub(crate) struct Llama {
    info: LlmInfo,
    model: &'static LlamaModel,
    template: LlamaChatTemplate,
    context: LlamaContext<'static>,
    batch: LlamaBatch<'static>,
    cache: Cache,
    endings: Endings,
    open: BTreeMap<SeqId, Sequence>,
    /// Counts what has begun, so that the newest can be told.
    begun: u64,
}

/// A conversation that has begun.
#[derive(Default)]
struct Sequence {
    /// Tokens of the prompt that are not in the cache yet.
    pending: VecDeque<LlamaToken>,
    /// Tokens of its system prompt.
    system: usize,
    /// Tokens up to the caller's last word, behind which the end of their sentence is judged.
    words: Option<usize>,
    answer: Option<Answer>,
    begun: u64,
}

/// A sequence's part in a step.
#[derive(Debug)]
struct Work {
    seq: SeqId,
    tokens: Vec<LlamaToken>,
    /// Whether a token is chosen after them.
    choose: bool,
    /// The one of them behind which the end of the caller's sentence is judged.
    judge: Option<usize>,
    prompt: bool,
}

/// Where in a batch the logits lie that a sequence's part asked for.
#[derive(Debug, Default)]
struct Wanted {
    chosen: i32,
    judged: Option<i32>,
}

impl Llama {
    /// Loads the weights and makes the cache.
    pub(crate) fn open(spec: &LlamaSpec) -> Result<Self> {
        if spec.sequences == 0 || spec.sequences > LlamaSpec::SEQUENCES_MAX {
            return Err(EngineError::Invalid(format!(
                "sequences is {}; 1 to {} are possible",
                spec.sequences,
                LlamaSpec::SEQUENCES_MAX
            )));
        }
        let failed = |e: &dyn std::fmt::Display| {
            EngineError::Invalid(format!("{} cannot be loaded: {e}", spec.model.display()))
        };
        let backend = LlamaBackend::init().map_err(|e| failed(&e))?;
        let layers = if cfg!(feature = "cuda") { spec.gpu_layers } else { 0 };
        let parameters = LlamaModelParams::default().with_n_gpu_layers(layers);
        let model = LlamaModel::load_from_file(&backend, &spec.model, &parameters).map_err(|e| failed(&e))?;
        // The context borrows the model, and both live as long as the process: there is one of each.
        let model: &'static LlamaModel = Box::leak(Box::new(model));
        let threads = i32::try_from(spec.threads.max(1)).unwrap_or(1);
        let alone = i32::try_from(spec.decode_threads).ok().filter(|&n| n > 0).unwrap_or(threads);
        let batch = u32::try_from(BATCH_TOKENS).unwrap_or(512);
        let parameters = LlamaContextParams::default()
            .with_n_ctx(NonZeroU32::new(spec.cache()))
            .with_n_seq_max(spec.sequences + KEEPERS)
            .with_n_batch(batch)
            .with_n_ubatch(batch)
            .with_n_threads(alone)
            .with_n_threads_batch(threads)
            // Shares a common prefix instead of storing it twice. With it and flash attention (llama.cpp's own
            // choice on a CPU) a sequence's text does not depend on who else is in the batch, as long as a
            // step has fewer than 64 tokens and the cache fewer than 512: from there on ggml takes other
            // kernels, whose sums round differently, and a near tie may fall the other way.
            .with_kv_unified(true);
        let context = model.new_context(&backend, parameters).map_err(|e| failed(&e))?;
        // Dropping the handle would free llama.cpp's globals under the model.
        std::mem::forget(backend);
        let stem = spec.model.file_stem().map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        Ok(Self {
            info: LlmInfo {
                model: format!("llama.cpp {stem}"),
                context: spec.context.min(context.n_ctx()),
                sequences: spec.sequences,
            },
            model,
            template: template_of(model)?,
            context,
            batch: LlamaBatch::new(BATCH_TOKENS, 1),
            cache: Cache::new(spec.sequences),
            endings: Endings::of(model),
            open: BTreeMap::new(),
            begun: 0,
        })
    }

    fn known(&self, seq: SeqId) -> Result<()> {
        if seq.0 < self.info.sequences {
            return Ok(());
        }
        Err(EngineError::Invalid(format!("sequence {}; there are {}", seq.0, self.info.sequences)))
    }

    /// A sequence fails alone.
    fn fail(&mut self, seq: SeqId, error: EngineError) -> StepEvent {
        if self.known(seq).is_ok() {
            self.cache.wipe(&mut self.context, seq);
        }
        self.open.remove(&seq);
        StepEvent::Failed { seq, error }
    }

    /// Sorts out what a sequence named in `decode` needs: the token chosen at the end of its prompt is
    /// handed out for nothing, every later one costs a pass.
    fn plan_decode(&mut self, seq: SeqId, events: &mut Vec<StepEvent>, work: &mut Vec<Work>) {
        let position = self.cache.len(seq);
        let full = position + 1 >= self.info.context as usize;
        let ready = self.open.get_mut(&seq).filter(|s| s.pending.is_empty()).and_then(|s| s.answer.as_mut());
        let Some(answer) = ready else {
            let error =
                EngineError::Invalid("nothing to decode: no answer has begun or a prompt is left".into());
            let event = self.fail(seq, error);
            events.push(event);
            return;
        };
        if !answer.shown {
            let event = answer.show(self.model, seq);
            self.settle(event, events);
        } else if full {
            let event = answer.end(seq, String::new(), StopReason::Length);
            self.settle(event, events);
        } else if let Some(token) = answer.chosen {
            work.push(Work { seq, tokens: vec![token], choose: true, judge: None, prompt: false });
        }
    }

    fn plan_prefill(
        &mut self,
        (seq, most): (SeqId, u32),
        events: &mut Vec<StepEvent>,
        room: &mut usize,
    ) -> Option<Work> {
        let Some(sequence) = self.open.get(&seq) else {
            let event =
                self.fail(seq, EngineError::Invalid("nothing to prefill: no prompt has begun".into()));
            events.push(event);
            return None;
        };
        if sequence.pending.is_empty() {
            events.push(StepEvent::Prefilled { seq, left: 0 });
            return None;
        }
        let n = sequence.pending.len().min(most as usize).min(*room);
        if n == 0 {
            events.push(StepEvent::Prefilled { seq, left: count(sequence.pending.len()) });
            return None;
        }
        *room -= n;
        let choose = n == sequence.pending.len() && sequence.answer.is_some();
        let tokens = sequence.pending.iter().take(n).copied().collect();
        let from = self.cache.len(seq);
        let judge = sequence.words.and_then(|words| (words - 1).checked_sub(from)).filter(|i| *i < n);
        Some(Work { seq, tokens, choose, judge, prompt: true })
    }

    /// Passes an event on; an answer that is done is put away.
    fn settle(&mut self, event: StepEvent, events: &mut Vec<StepEvent>) {
        if let StepEvent::Done { seq, .. } = &event
            && let Some(sequence) = self.open.get_mut(seq)
        {
            sequence.answer = None;
        }
        events.push(event);
    }

    /// Computes the work, making room in the cache where it is full: idle sequences give theirs up first,
    /// then system prompts nobody uses, and at last whoever came last fails alone.
    fn compute(&mut self, mut work: Vec<Work>, events: &mut Vec<StepEvent>) {
        while !work.is_empty() {
            let wanted = match self.fill(&work) {
                Ok(wanted) => wanted,
                Err(error) => return self.fail_all(work, &error, events),
            };
            match self.context.decode(&mut self.batch) {
                Ok(()) => {
                    for (part, wanted) in work.into_iter().zip(wanted) {
                        self.finish(part, &wanted, events);
                    }
                    return;
                }
                Err(DecodeError::NoKvCacheSlot) => {
                    let busy: Vec<SeqId> = work.iter().map(|w| w.seq).collect();
                    let open = &self.open;
                    let idle = |seq: SeqId| {
                        !busy.contains(&seq)
                            && open.get(&seq).is_none_or(|s| s.answer.is_none() && s.pending.is_empty())
                    };
                    if self.cache.evict(&mut self.context, idle) {
                        continue;
                    }
                    let born = |w: &Work| self.open.get(&w.seq).map_or(0, |s| s.begun);
                    let newest = work.iter().enumerate().max_by_key(|(_, w)| born(w));
                    let Some((at, _)) = newest else { return };
                    let seq = work.remove(at).seq;
                    let error = EngineError::Failed("the cache is full of other conversations".into());
                    let event = self.fail(seq, error);
                    events.push(event);
                }
                Err(error) => return self.fail_all(work, &EngineError::Failed(error.to_string()), events),
            }
        }
    }

    /// Writes the batch; returns for each work where its logits will lie.
    fn fill(&mut self, work: &[Work]) -> Result<Vec<Wanted>> {
        self.batch.clear();
        let mut all = Vec::with_capacity(work.len());
        for part in work {
            let id = i32::try_from(part.seq.0).unwrap_or(i32::MAX);
            let from = self.cache.len(part.seq);
            let mut wanted = Wanted::default();
            for (i, token) in part.tokens.iter().enumerate() {
                let last = part.choose && i + 1 == part.tokens.len();
                let judged = part.judge == Some(i);
                let position = i32::try_from(from + i).unwrap_or(i32::MAX);
                self.batch
                    .add(*token, position, &[id], last || judged)
                    .map_err(|e| EngineError::Failed(format!("the batch is full: {e}")))?;
                wanted.chosen = self.batch.n_tokens() - 1;
                if judged {
                    wanted.judged = Some(wanted.chosen);
                }
            }
            all.push(wanted);
        }
        Ok(all)
    }

    /// Notes what was computed and chooses the next token where one is due.
    fn finish(&mut self, part: Work, wanted: &Wanted, events: &mut Vec<StepEvent>) {
        self.cache.extend(part.seq, &part.tokens);
        if let Some(index) = wanted.judged {
            let probability = self.endings.probability(self.context.get_logits_ith(index));
            events.push(StepEvent::Ends { seq: part.seq, probability });
        }
        let Some(sequence) = self.open.get_mut(&part.seq) else { return };
        if part.prompt {
            sequence.pending.drain(..part.tokens.len());
            self.cache.keep(&mut self.context, part.seq, sequence.system);
            events.push(StepEvent::Prefilled { seq: part.seq, left: count(sequence.pending.len()) });
        }
        if !part.choose {
            return;
        }
        let Some(answer) = sequence.answer.as_mut() else { return };
        answer.chosen = Some(answer.sampler.sample(&self.context, wanted.chosen));
        answer.shown = false;
        if !part.prompt {
            let event = answer.show(self.model, part.seq);
            self.settle(event, events);
        }
    }

    fn fail_all(&mut self, work: Vec<Work>, error: &EngineError, events: &mut Vec<StepEvent>) {
        for part in work {
            let event = self.fail(part.seq, error.clone());
            events.push(event);
        }
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

impl Llm for Llama {
    fn info(&self) -> LlmInfo {
        self.info.clone()
    }

    fn begin(&mut self, seq: SeqId, prompt: &Prompt, sampling: &Sampling) -> Result<Begun> {
        self.known(seq)?;
        let answer = if prompt.unfinished { None } else { Some(Answer::new(self.model, sampling)?) };
        let tokens = tokenise(self.model, &self.template, prompt)?;
        let n = tokens.all.len();
        if n >= self.info.context as usize {
            return Err(EngineError::Invalid(format!(
                "the prompt has {n} tokens; a conversation holds {}, its answer included",
                self.info.context
            )));
        }
        // An answer starts from the logits of the last prompt token, so that one is always computed.
        // So does the judgement of the caller's sentence from those of their last word.
        let most = if answer.is_some() { n - 1 } else { n };
        let most = tokens.words.map_or(most, |words| most.min(words - 1));
        let reused = self.cache.reuse(&mut self.context, seq, &tokens.all, most);
        let pending = tokens.all[reused..].iter().copied().collect();
        self.begun += 1;
        let sequence =
            Sequence { pending, system: tokens.system, words: tokens.words, answer, begun: self.begun };
        self.open.insert(seq, sequence);
        Ok(Begun { prompt_tokens: count(n), reused_tokens: count(reused) })
    }

    fn step(&mut self, plan: &StepPlan) -> Result<Vec<StepEvent>> {
        let mut named: Vec<SeqId> =
            plan.decode.iter().chain(plan.prefill.iter().map(|(s, _)| s)).copied().collect();
        named.sort_unstable();
        if named.windows(2).any(|pair| pair[0] == pair[1]) {
            return Err(EngineError::Invalid("a sequence can have only one part in a step".into()));
        }
        let mut events = Vec::with_capacity(named.len());
        let mut work = Vec::with_capacity(named.len());
        for seq in &plan.decode {
            self.plan_decode(*seq, &mut events, &mut work);
        }
        let mut room = BATCH_TOKENS - work.len();
        for part in &plan.prefill {
            work.extend(self.plan_prefill(*part, &mut events, &mut room));
        }
        self.compute(work, &mut events);
        Ok(events)
    }

    fn stop(&mut self, seq: SeqId) -> Result<()> {
        self.known(seq)?;
        if let Some(sequence) = self.open.get_mut(&seq) {
            sequence.answer = None;
            sequence.pending.clear();
        }
        Ok(())
    }

    fn close(&mut self, seq: SeqId) -> Result<()> {
        self.known(seq)?;
        self.cache.wipe(&mut self.context, seq);
        self.open.remove(&seq);
        Ok(())
    }
}
