//! Turns of the processor for what is asked of the management API.
//!
//! A page of a hundred bindings takes the time of thirty exchanges. Hundreds of clients who ask for pages would have hundreds of tasks
//! ready to go on, and an exchange its turn after all of those. So in each round of the runtime, which is all that is ready to go on or
//! some sixty tasks of it, only as many of them go on as it has threads, in the order in which they came; the others have theirs in the
//! rounds that follow. While there is nothing else to do, a round is over at once. Whoever waits for something else than the processor
//! keeps no turn.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::ready;

use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore};
use tokio::task::{JoinHandle, yield_now};
use tokio_util::sync::PollSemaphore;

/// Who may go on. Shared by reference or `Arc`.
#[derive(Debug)]
pub struct Turns {
    state: Arc<State>,
    giving: JoinHandle<()>,
}

#[derive(Debug)]
struct State {
    left: Arc<Semaphore>,
    /// How many were taken since they were given the last time.
    taken: AtomicUsize,
    /// At least one was.
    some: Notify,
}

impl Turns {
    /// As many in each round as the runtime has threads. Must be called inside of it.
    pub fn start() -> Self {
        Self::of_each_round(Handle::current().metrics().num_workers())
    }

    /// As [`Self::start`], so many in each round; with none, nothing goes on.
    pub fn of_each_round(turns: usize) -> Self {
        let left = Arc::new(Semaphore::new(turns));
        let state = Arc::new(State { left, taken: AtomicUsize::new(0), some: Notify::new() });
        let giving = tokio::spawn(give(Arc::clone(&state)));
        Self { state, giving }
    }

    /// Runs this, a turn for each time that it can go on.
    pub async fn run<F: Future>(&self, work: F) -> F::Output {
        let mut turn = PollSemaphore::new(Arc::clone(&self.state.left));
        let mut work = pin!(work);
        poll_fn(|context| {
            // `None` is of a semaphore that was closed, which this one never is.
            if let Some(turn) = ready!(turn.poll_acquire(context)) {
                turn.forget();
                self.state.taken.fetch_add(1, Ordering::Relaxed);
            }
            let _over = Over(&self.state.some);
            work.as_mut().poll(context)
        })
        .await
    }
}

/// Says that a turn is over, however it ends. Not before: whoever is woken by a task goes on after it, on the same thread.
struct Over<'t>(&'t Notify);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl Drop for Turns {
    fn drop(&mut self) {
        self.giving.abort();
    }
}

/// Gives what was taken in a round when that is over.
async fn give(state: Arc<State>) {
    loop {
        state.some.notified().await;
        yield_now().await;
        state.left.add_permits(state.taken.swap(0, Ordering::Relaxed));
    }
}

#[cfg(test)]
mod tests {
    use std::panic::AssertUnwindSafe;
    use std::sync::Mutex;

    use futures::FutureExt as _;
    use futures::future::{join_all, pending};

    use super::*;

    /// Work of so many steps, each of which could go on at once.
    async fn steps(name: char, steps: usize, done: &Mutex<String>) {
        for _ in 0..steps {
            done.lock().unwrap().push(name);
            yield_now().await;
        }
    }

    #[tokio::test]
    async fn in_each_round_so_many_go_on_and_whoever_else_is_there_too() {
        let turns = Arc::new(Turns::of_each_round(2));
        let done = Arc::new(Mutex::new(String::new()));
        let pages = (0..50).map(|_| {
            let (turns, done) = (Arc::clone(&turns), Arc::clone(&done));
            tokio::spawn(async move { turns.run(steps('p', 4, &done)).await })
        });
        let pages: Vec<_> = pages.collect();
        let exchanges = tokio::spawn({
            let done = Arc::clone(&done);
            async move { steps('x', 20, &done).await }
        });
        exchanges.await.unwrap();
        for page in pages {
            page.await.unwrap();
        }
        let done = done.lock().unwrap();
        assert_eq!(done.matches('p').count(), 200);
        // Without turns, fifty pages would go on between two exchanges.
        let between = done.split('x').map(str::len).take(20).max().unwrap();
        assert!(between <= 4, "{done}");
    }

    #[tokio::test]
    async fn each_gets_its_turn_in_the_order_in_which_they_came() {
        let turns = Turns::of_each_round(1);
        let done = Mutex::new(String::new());
        join_all(('a'..='e').map(|name| turns.run(steps(name, 3, &done)))).await;
        assert_eq!(*done.lock().unwrap(), "abcdeabcdeabcde");
    }

    #[tokio::test]
    async fn what_waits_is_given_up_or_panics_keeps_no_turn() {
        let turns = Turns::of_each_round(1);
        let left = || (turns.state.left.available_permits(), turns.state.taken.load(Ordering::Relaxed));
        let mut waiting = pin!(turns.run(pending::<()>()));
        assert!(waiting.as_mut().now_or_never().is_none());
        assert_eq!(left(), (0, 1));
        // Given up while it waits for its turn, and when that is its own already.
        assert!(turns.run(async {}).now_or_never().is_none());
        let mut next = Box::pin(turns.run(async {}));
        assert!(next.as_mut().now_or_never().is_none());
        while left().1 > 0 {
            yield_now().await;
        }
        assert_eq!(left(), (0, 0));
        drop(next);
        assert_eq!(left(), (1, 0));
        let panicking = AssertUnwindSafe(turns.run(async { panic!("as it should") })).catch_unwind();
        assert!(panicking.await.is_err());
        turns.run(yield_now()).await;
        while left().1 > 0 {
            yield_now().await;
        }
        assert_eq!(left(), (1, 0));
    }
}
