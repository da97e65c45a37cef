//! The interviews that were asked for: made, found, forgotten.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use viva_actors::types::{Principal, SessionId};

use super::Interview;
use super::director::Room;
use super::find::{Finder, Plain};
use super::plan::Plan;

/// Interviews that are kept at once: a day's on a large machine. One has at most some hundred kilobytes of words.
pub const INTERVIEWS_MAX: usize = 1_000;

/// Interviews one user may have of these.
pub const INTERVIEWS_A_USER_MAX: usize = 200;

/// How long an interview is kept on which nobody sits: long enough to fetch its transcript the next hour, and no
/// archive. Whoever wants to keep it fetches it.
pub const KEPT: Duration = Duration::from_secs(2 * 3_600);

struct Kept {
    room: Arc<Room>,
    principal: Principal,
    /// Since when nobody sits on it, as far as was looked.
    idle: Instant,
}

/// Why there is no new interview.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Full {
    /// All there may be are there.
    #[error("this server keeps as many interviews as it may; delete some, or try again later")]
    Server,
    /// This user's are.
    #[error("you have as many interviews as you may; delete some that are over")]
    User,
}

/// All of them.
pub struct Book {
    kept: Mutex<HashMap<String, Kept>>,
    finder: Arc<dyn Finder>,
}

impl Book {
    /// An empty one, whose interviews take their questions from `finder`.
    pub fn new(finder: Arc<dyn Finder>) -> Self {
        Self { kept: Mutex::default(), finder }
    }

    /// An empty one, whose questions are Viva's own, found by their words.
    pub fn of_bank() -> Self {
        Self::new(Arc::new(Plain::own()))
    }

    /// Who finds the questions.
    pub fn finder(&self) -> &Arc<dyn Finder> {
        &self.finder
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new interview. Looks up the role's fields where the plan names none.
    pub async fn open(&self, mut plan: Plan, principal: Principal) -> Result<(String, Arc<Room>), Full> {
        self.room_for_one(&principal)?;
        if plan.conduct.fields.is_empty() {
            plan.conduct.fields = self.finder.fields(&plan.conduct.role).await;
        }
        let seed = rand::random::<u64>();
        let room = Room::new(Interview::new(plan, seed), Arc::clone(&self.finder), seed);
        let id = format!("int_{:032x}", rand::random::<u128>());
        // Others may have come while the fields were looked up.
        self.room_for_one(&principal)?;
        let kept = Kept { room: Arc::clone(&room), principal, idle: Instant::now() };
        self.lock().insert(id.clone(), kept);
        Ok((id, room))
    }

    fn room_for_one(&self, principal: &Principal) -> Result<(), Full> {
        let mut kept = self.lock();
        sweep(&mut kept, Instant::now());
        if kept.len() >= INTERVIEWS_MAX {
            return Err(Full::Server);
        }
        let theirs = kept.values().filter(|k| same(&k.principal, principal)).count();
        if theirs >= INTERVIEWS_A_USER_MAX { Err(Full::User) } else { Ok(()) }
    }

    /// The interview of this name, if it is this user's and still there.
    pub fn find(&self, id: &str, principal: &Principal) -> Option<Arc<Room>> {
        let mut kept = self.lock();
        sweep(&mut kept, Instant::now());
        kept.get(id).filter(|k| same(&k.principal, principal)).map(|k| Arc::clone(&k.room))
    }

    /// Forgets an interview and all that was said in it, and ends its session. Gives the sessions it had, which may
    /// have left recordings.
    pub fn delete(&self, id: &str, principal: &Principal) -> Option<Vec<SessionId>> {
        let mut kept = self.lock();
        kept.get(id).filter(|k| same(&k.principal, principal))?;
        let gone = kept.remove(id)?;
        drop(kept);
        gone.room.close("the interview was deleted");
        Some(gone.room.sessions())
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.lock().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn same(a: &Principal, b: &Principal) -> bool {
    a.tenant == b.tenant && a.user == b.user
}

fn sweep(kept: &mut HashMap<String, Kept>, now: Instant) {
    for entry in kept.values_mut() {
        if entry.room.in_use() {
            entry.idle = now;
        }
    }
    kept.retain(|_, entry| now.duration_since(entry.idle) < KEPT);
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::interview::plan::{Conduct, Wanted};

    fn book() -> Book {
        Book::of_bank()
    }

    fn plan() -> Plan {
        let wanted = Wanted { role: Some("nurse".into()), ..Wanted::default() };
        Plan::new("friendly", &Conduct::default(), wanted).unwrap()
    }

    #[tokio::test]
    async fn an_interview_is_its_users_until_it_is_deleted() {
        let (book, me) = (book(), Principal::default());
        let other = Principal { user: "other".into(), ..Principal::default() };
        let (id, room) = book.open(plan(), me.clone()).await.unwrap();
        assert_eq!(room.look(|i| i.plan().conduct.fields.clone()), ["nursing"]);
        assert!(book.find(&id, &me).is_some() && book.find(&id, &other).is_none());
        assert!(book.delete(&id, &other).is_none());
        assert!(book.delete(&id, &me).is_some() && book.delete(&id, &me).is_none());
        assert!(book.find(&id, &me).is_none() && room.look(Interview::is_over));
    }

    #[tokio::test]
    async fn nobody_takes_all_places_and_idle_ones_are_forgotten() {
        let (book, me) = (book(), Principal::default());
        let mut plan = plan();
        plan.conduct.fields = vec!["nursing".into()];
        for _ in 0..INTERVIEWS_A_USER_MAX {
            book.open(plan.clone(), me.clone()).await.unwrap();
        }
        assert_eq!(book.open(plan.clone(), me.clone()).await.unwrap_err(), Full::User);
        let seat = book.lock().values().next().unwrap().room.sit();
        assert!(seat.is_some());
        sweep(&mut book.lock(), Instant::now() + KEPT);
        assert_eq!(book.len(), 1, "the one somebody sits on stays");
    }
}
