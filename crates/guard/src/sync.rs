//! The one lock of this crate. In its unit tests every locking is a point where a model of threads may
//! switch to another one, so that shuttle can try thousands of orders (see `admission/orders.rs`).

#[cfg(not(test))]
pub(crate) use parking_lot::Mutex;

#[cfg(test)]
pub(crate) use model::{Mutex, in_model};

#[cfg(test)]
mod model {
    use std::cell::Cell;

    thread_local! {
        static IN_MODEL: Cell<bool> = const { Cell::new(false) };
    }

    #[derive(Debug)]
    pub(crate) struct Mutex<T>(parking_lot::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) const fn new(value: T) -> Self {
            Self(parking_lot::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> parking_lot::MutexGuard<'_, T> {
            if !IN_MODEL.get() {
                return self.0.lock();
            }
            // all threads of the model run on this one: waiting for real would wait for ever
            loop {
                shuttle::thread::yield_now();
                if let Some(guard) = self.0.try_lock() {
                    return guard;
                }
            }
        }
    }

    /// Runs `body` with every lock as a point to switch threads at. Only for a thread that runs a model.
    pub(crate) fn in_model(body: impl FnOnce()) {
        struct Reset;
        impl Drop for Reset {
            fn drop(&mut self) {
                IN_MODEL.set(false);
            }
        }
        IN_MODEL.set(true);
        let _reset = Reset;
        body();
    }
}
