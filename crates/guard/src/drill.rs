//! Faults that the guard makes itself: which attempt meets which ([`ChaosPolicy`]), and how it does.

use std::future::{Future, pending};
use std::time::Duration;

use tokio::time::sleep;

use crate::ending::End;
use crate::{ChaosPolicy, ErrorClass};

/// What is done to one attempt.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Drill {
    is_late: bool,
    fault: Option<Fault>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Error(ErrorClass),
    Stall,
    Cut,
}

impl Drill {
    /// Draws the lot; `draw` returns a number in `[0, 1)`, uniformly.
    pub(crate) fn draw(chaos: &ChaosPolicy, mut draw: impl FnMut() -> f64) -> Self {
        if !chaos.is_on() {
            return Self::default();
        }
        let is_late = draw() < chaos.latency;
        let lot = draw();
        let fault = if lot < chaos.error {
            Some(Fault::Error(chaos.error_class))
        } else if lot < chaos.error + chaos.stall {
            Some(Fault::Stall)
        } else if lot < chaos.error + chaos.stall + chaos.cut {
            Some(Fault::Cut)
        } else {
            None
        };
        Self { is_late, fault }
    }

    /// Whether the answer is lost on its way.
    pub(crate) const fn cuts(self) -> bool {
        matches!(self.fault, Some(Fault::Cut))
    }

    /// Whether the dependency is reached at all.
    const fn reaches(self) -> bool {
        matches!(self.fault, None | Some(Fault::Cut))
    }

    /// An end that this drill has brought about says so.
    pub(crate) fn own<E>(self, end: End<E>) -> End<E> {
        match (self.fault, end) {
            (Some(Fault::Stall), End::TimedOut(..)) => End::Injected(ErrorClass::Timeout),
            (Some(Fault::Cut), End::Cut) => End::Injected(ErrorClass::Malformed),
            (_, end) => end,
        }
    }

    /// Makes the operation's future, unless nothing of the operation may happen.
    pub(crate) fn prepare<F>(self, operation: impl FnOnce() -> F) -> Option<F> {
        self.reaches().then(operation)
    }

    /// Runs what [`Drill::prepare`] made, later if so drawn; or ends or stalls without it.
    pub(crate) async fn run<T, E>(
        self,
        operation: Option<impl Future<Output = Result<T, E>>>,
        latency_for: Duration,
    ) -> Result<T, End<E>> {
        if self.is_late {
            sleep(latency_for).await;
        }
        match (operation, self.fault) {
            (Some(operation), _) => operation.await.map_err(End::Error),
            (None, Some(Fault::Error(class))) => Err(End::Injected(class)),
            (None, _) => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_attempt_meets_each_fault_as_often_as_its_share_says_and_one_at_most() {
        let chaos =
            ChaosPolicy { latency: 0.5, error: 0.2, stall: 0.3, cut: 0.1, ..Default::default() };
        let drill = |late: f64, lot: f64| {
            let mut lots = [late, lot].into_iter();
            Drill::draw(&chaos, || lots.next().unwrap())
        };
        assert!(drill(0.49, 0.9).is_late);
        assert_eq!(drill(0.5, 0.9), Drill::default());
        let fault = |lot| drill(0.9, lot).fault;
        assert_eq!(fault(0.0), Some(Fault::Error(ErrorClass::Unavailable)));
        assert_eq!(fault(0.199), Some(Fault::Error(ErrorClass::Unavailable)));
        assert_eq!((fault(0.2), fault(0.499)), (Some(Fault::Stall), Some(Fault::Stall)));
        assert_eq!((fault(0.5), fault(0.599)), (Some(Fault::Cut), Some(Fault::Cut)));
        assert_eq!(fault(0.61), None);
    }

    #[test]
    fn a_share_of_one_is_every_attempt_and_of_zero_none() {
        let all = ChaosPolicy { cut: 1.0, ..ChaosPolicy::default() };
        assert!(Drill::draw(&all, || 0.999_999).cuts());
        assert_eq!(Drill::draw(&ChaosPolicy::default(), || panic!()), Drill::default());
    }
}
