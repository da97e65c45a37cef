//! From submission lanes into the queues of engines, and from there to whoever may start: the driving side of
//! [`policy`].

use std::time::Duration;

use ractor::ActorRef;
use viva_models::{Cancel, EngineError};

use crate::metrics as m;

use super::binding::{self, Serves};
use super::policy::{self, Candidate, Discipline};
use super::queue::{Kind, Link};
use super::work::Job;
use super::writer::Writer;
use super::{GpuMsg, GpuState, said, sequences};

/// The places of the speech detector, and of the voice whose lines are kept, among the links.
const EARS: usize = 0;
const VOICE: usize = 3;

/// From so many sessions on windows of speech wait for those of others. Below, few would come in [`GATHER`], and who is
/// alone shall wait for nobody.
const GATHER_FROM: usize = 8;

/// How long a window waits at most, so that many are judged in one call: Silero takes 0.3 ms for one and 3.7 for 64.
/// A quarter of a window; an interruption may take 150 ms in all.
const GATHER: Duration = Duration::from_millis(8);

impl GpuState {
    /// Windows wait for those of other sessions. False where they need not, or have waited.
    pub(super) fn gather(&mut self, me: &ActorRef<GpuMsg>) -> bool {
        if self.discipline == Discipline::Arrival || self.clients.len() < GATHER_FROM {
            return false;
        }
        if !self.gathering {
            self.gathering = true;
            me.send_after(GATHER, || GpuMsg::Gathered);
        }
        true
    }

    /// Reads a session's lane. Says whether nothing but windows of speech was there.
    pub(super) fn collect(&mut self, key: u64) -> bool {
        let Some(client) = self.clients.get(&key) else { return true };
        client.lane.answer();
        let mut windows_only = true;
        while let Some(mut work) = client.lane.pop() {
            if self.discipline == Discipline::Arrival {
                // Whatever was asked for is done, whether or not somebody still waits for it.
                work.cancel = Cancel::new();
            }
            if matches!(work.job, Job::Vad { .. }) {
                self.links[EARS].queue.push(work);
                continue;
            }
            windows_only = false;
            let Some(kind) = Kind::of(&work.job) else {
                let serves: Vec<Serves> = self.writers.iter().map(|w| w.serves.clone()).collect();
                let first = binding::choose(&serves, &client.want).unwrap_or(0);
                let other = binding::spill(&serves, &client.want);
                let chosen = match other {
                    Some(other) if !self.writers[first].has_room() => other,
                    _ => first,
                };
                // What it had under way elsewhere is replaced by this.
                for (_, writer) in self.writers.iter_mut().enumerate().filter(|(i, _)| *i != chosen) {
                    writer.book.release(key);
                }
                self.writers[chosen].book.submit(key, work);
                continue;
            };
            let of_kind: Vec<usize> = (0..self.links.len()).filter(|&l| self.links[l].kind == kind).collect();
            let serves: Vec<Serves> = of_kind.iter().map(|&l| self.links[l].serves.clone()).collect();
            match binding::choose(&serves, &client.want) {
                Some(chosen) => {
                    let link = of_kind[chosen];
                    let work = match &self.spoken {
                        Some(spoken) if link == VOICE && self.discipline == Discipline::Slack => {
                            match said::answer(spoken, work) {
                                Some(work) => work,
                                None => continue,
                            }
                        }
                        _ => work,
                    };
                    self.links[link].queue.push(work);
                }
                None => {
                    work.job.fail(EngineError::Invalid(format!("no {} engine is configured", kind.name())))
                }
            }
        }
        windows_only
    }

    /// Moves what would come too late, or not at all, to an engine that is there for that.
    fn spill(&mut self) {
        for from in 0..self.links.len() {
            if self.links[from].serves.spill || self.links[from].queue.is_empty() {
                continue;
            }
            let kind = self.links[from].kind;
            let to = (0..self.links.len()).find(|&l| {
                self.links[l].kind == kind && self.links[l].serves.spill && self.links[l].is_idle()
            });
            let Some(to) = to else { continue };
            if let Some(work) = self.links[from].take_late() {
                metrics::counter!(m::SPILLED, "stage" => kind.name()).increment(1);
                self.links[to].queue.push(work);
            }
        }
    }

    /// Starts whatever may start now.
    pub(super) fn dispatch(&mut self) {
        for link in &mut self.links {
            link.tidy();
        }
        if self.discipline == Discipline::Arrival {
            return self.dispatch_in_order();
        }
        self.spill();
        let links = self.links.len();
        let mut candidates = std::mem::take(&mut self.candidates);
        candidates.clear();
        for (i, link) in self.links.iter().enumerate() {
            if i == EARS && self.gathering {
                continue;
            }
            candidates.extend(link.heads().map(|head| Candidate {
                link: i,
                deadline_us: sequences::micros(head.deadline),
                cost_us: link.cost.of(head.job.units()),
                speculative: head.speculative(),
                cores: link.cores,
            }));
        }
        for (i, writer) in self.writers.iter_mut().enumerate() {
            let Some(head) = writer.head() else { continue };
            candidates.push(Candidate {
                link: links + i,
                deadline_us: sequences::micros(head.deadline),
                cost_us: writer.step_us(),
                speculative: head.speculative,
                cores: writer.cores(),
            });
        }
        for granted in policy::grant(&mut candidates, self.free, self.total) {
            self.start(granted);
        }
        self.candidates = candidates;
        self.give_way();
    }

    /// Words that are only to be shown give way to what somebody waits for, as far as that has not begun.
    fn give_way(&mut self) {
        let gathering = self.gathering;
        let waits = |(i, link): (usize, &Link)| (i != EARS || !gathering) && link.certain_waits();
        let writes = self.writers.iter_mut().any(|w| w.head().is_some_and(|head| !head.speculative));
        if writes || self.links.iter().enumerate().any(waits) {
            self.links.iter().for_each(Link::stop_shown);
        }
    }

    fn start(&mut self, granted: usize) {
        let held = match granted.checked_sub(self.links.len()) {
            Some(writer) => self.writers[writer].start(self.total),
            None => self.links[granted].start(self.total),
        };
        self.free -= held;
    }

    /// The baseline: see [`Discipline::Arrival`].
    fn dispatch_in_order(&mut self) {
        let beside = |link: &Link| link.kind == Kind::Vad;
        let links = self.links.len();
        let at_work = self.links.iter().any(|link| !beside(link) && link.at_work())
            || self.writers.iter().any(Writer::at_work);
        for link in (0..links).filter(|&l| beside(&self.links[l])).collect::<Vec<_>>() {
            if self.links[link].is_idle() {
                self.start(link);
            }
        }
        let of_links = self.links.iter().enumerate().filter(|(_, link)| !beside(link));
        let mut asked: Vec<(u64, usize)> = of_links
            .filter_map(|(i, link)| Some((sequences::micros(link.heads().next()?.submitted), i)))
            .collect();
        for (i, writer) in self.writers.iter_mut().enumerate() {
            asked.extend(writer.head().map(|head| (sequences::micros(head.submitted), links + i)));
        }
        if let Some(granted) = policy::grant_in_order(asked, at_work) {
            self.start(granted);
        }
    }
}
