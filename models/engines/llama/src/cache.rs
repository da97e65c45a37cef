//! Who holds which tokens of the one cache.

use std::collections::BTreeMap;

use llama_cpp_2::context::LlamaContext;
use llama_cpp_2::token::LlamaToken;
use viva_models::SeqId;

/// Sequences of our own that keep system prompts alive when every conversation with them has closed: one
/// for each kind of interview that runs side by side, and room for two that come and go.
pub(crate) const KEEPERS: u32 = 4;

/// A system prompt shorter than this is not worth keeping: it is computed in one small step.
const KEPT_TOKENS_MIN: usize = 16;

/// What the cache holds, by llama's own sequence number. Conversations have their [`SeqId`], keepers come
/// after them.
#[derive(Debug)]
pub(crate) struct Cache {
    sequences: u32,
    held: BTreeMap<u32, Held>,
    clock: u64,
}

#[derive(Debug, Default)]
struct Held {
    tokens: Vec<LlamaToken>,
    used: u64,
}

/// Length of the longest common prefix.
fn common(a: &[LlamaToken], b: &[LlamaToken]) -> usize {
    a.iter().zip(b).take_while(|(x, y)| x == y).count()
}

impl Cache {
    pub(crate) fn new(sequences: u32) -> Self {
        Self { sequences, held: BTreeMap::new(), clock: 0 }
    }

    /// Tokens a conversation has in the cache.
    pub(crate) fn len(&self, seq: SeqId) -> usize {
        self.held.get(&seq.0).map_or(0, |h| h.tokens.len())
    }

    /// Notes tokens that a step has computed.
    pub(crate) fn extend(&mut self, seq: SeqId, tokens: &[LlamaToken]) {
        self.clock += 1;
        let held = self.held.entry(seq.0).or_default();
        held.tokens.extend_from_slice(tokens);
        held.used = self.clock;
    }

    /// Brings as much of `tokens` as the cache holds anywhere into `seq`, at most `most`, and removes the
    /// rest from it. Returns how many it has.
    pub(crate) fn reuse(
        &mut self,
        context: &mut LlamaContext<'_>,
        seq: SeqId,
        tokens: &[LlamaToken],
        most: usize,
    ) -> usize {
        let wanted = &tokens[..most];
        let own = self.held.get(&seq.0).map_or(0, |h| common(&h.tokens, wanted));
        let other = self
            .held
            .iter()
            .filter(|(id, _)| **id != seq.0)
            .map(|(id, held)| (common(&held.tokens, wanted), *id))
            .max_by_key(|(n, _)| *n)
            .filter(|(n, _)| *n > own);
        self.clock += 1;
        let has = match other {
            Some((n, from)) => {
                self.wipe(context, seq);
                if let Some(source) = self.held.get_mut(&from) {
                    source.used = self.clock;
                }
                if copy(context, from, seq.0, n) { n } else { 0 }
            }
            None if self.len(seq) == own || remove(context, seq.0, own) => own,
            // A model whose cache cannot be cut in the middle (recurrent layers) begins anew.
            None => {
                self.wipe(context, seq);
                0
            }
        };
        self.held.insert(seq.0, Held { tokens: tokens[..has].to_vec(), used: self.clock });
        has
    }

    /// Takes everything from a conversation.
    pub(crate) fn wipe(&mut self, context: &mut LlamaContext<'_>, seq: SeqId) {
        remove(context, seq.0, 0);
        self.held.remove(&seq.0);
    }

    /// Lets a keeper hold the first `system` tokens of `seq`, unless one does already.
    pub(crate) fn keep(&mut self, context: &mut LlamaContext<'_>, seq: SeqId, system: usize) {
        let Some(held) = self.held.get(&seq.0) else { return };
        if system < KEPT_TOKENS_MIN || held.tokens.len() < system {
            return;
        }
        let prefix = held.tokens[..system].to_vec();
        let keepers = self.sequences..self.sequences + KEEPERS;
        if keepers.clone().any(|id| self.held.get(&id).is_some_and(|h| h.tokens == prefix)) {
            return;
        }
        let free = keepers.clone().find(|id| !self.held.contains_key(id));
        let oldest = || keepers.clone().min_by_key(|id| self.held.get(id).map_or(0, |h| h.used));
        let Some(id) = free.or_else(oldest) else { return };
        remove(context, id, 0);
        self.held.remove(&id);
        if copy(context, seq.0, id, system) {
            self.clock += 1;
            self.held.insert(id, Held { tokens: prefix, used: self.clock });
        }
    }

    /// Empties the least recently used sequence of which `idle` is true, conversations before keepers.
    /// False when there is none.
    pub(crate) fn evict(&mut self, context: &mut LlamaContext<'_>, idle: impl Fn(SeqId) -> bool) -> bool {
        let oldest = self
            .held
            .iter()
            .filter(|(id, held)| !held.tokens.is_empty() && (**id >= self.sequences || idle(SeqId(**id))))
            .min_by_key(|(id, held)| (**id >= self.sequences, held.used))
            .map(|(id, _)| *id);
        let Some(id) = oldest else { return false };
        remove(context, id, 0);
        self.held.remove(&id);
        true
    }
}

/// Removes positions from `from` on. False where the model cannot cut there.
fn remove(context: &mut LlamaContext<'_>, id: u32, from: usize) -> bool {
    let from = u32::try_from(from).ok().filter(|n| *n > 0);
    context.clear_kv_cache_seq(Some(id), from, None).unwrap_or(false)
}

/// Shares the first `n` positions of one sequence with another. In a unified cache that copies no data.
fn copy(context: &mut LlamaContext<'_>, from: u32, to: u32, n: usize) -> bool {
    let (Ok(from), Ok(to), Ok(n)) = (i32::try_from(from), i32::try_from(to), u32::try_from(n)) else {
        return false;
    };
    context.kv_cache_seq_cp(from, to, Some(0), Some(n)).is_ok()
}
