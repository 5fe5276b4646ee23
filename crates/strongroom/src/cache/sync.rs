//! What the parts of the cache that threads share are built of: the standard library's types; in model checks (`./test
//! model`) ones of which every interleaving can be chosen.

#[cfg(not(all(test, shuttle)))]
pub(super) use std::sync::atomic::{AtomicBool, AtomicUsize};
#[cfg(not(all(test, shuttle)))]
pub(super) use std::sync::{Mutex, MutexGuard};

#[cfg(not(all(test, shuttle)))]
pub(super) use papaya::HashMap;

#[cfg(all(test, shuttle))]
pub(super) use self::model::{AtomicBool, AtomicUsize, HashMap, Mutex, MutexGuard, sleep};
#[cfg(not(all(test, shuttle)))]
pub(super) use crate::wait::sleep;

#[cfg(all(test, shuttle))]
mod model {
    use std::collections;
    use std::hash::Hash;
    use std::marker::PhantomData;
    use std::sync::PoisonError;
    use std::time::Duration;

    use shuttle::future::yield_now;
    use shuttle::rand::{Rng as _, thread_rng};
    pub(in super::super) use shuttle::sync::atomic::{AtomicBool, AtomicUsize};
    pub(in super::super) use shuttle::sync::{Mutex, MutexGuard};

    /// In a model a wait ends at a moment of the model's choice, but one of ten minutes never does.
    pub(in super::super) async fn sleep(duration: Duration) {
        if duration >= Duration::from_secs(600) {
            std::future::pending::<()>().await;
        }
        while thread_rng().gen_bool(0.5) {
            yield_now().await;
        }
    }

    /// The lock-free map takes no part in a model: here are its methods, each one step.
    #[derive(Debug)]
    pub(in super::super) struct HashMap<K, V, S>(Mutex<collections::HashMap<K, V>>, PhantomData<S>);

    impl<K, V, S> Default for HashMap<K, V, S> {
        fn default() -> Self {
            Self(Mutex::default(), PhantomData)
        }
    }

    impl<K: Eq + Hash, V: Clone, S> HashMap<K, V, S> {
        pub(in super::super) fn pin(&self) -> &Self {
            self
        }

        pub(in super::super) fn get(&self, key: &K) -> Option<V> {
            self.lock().get(key).cloned()
        }

        pub(in super::super) fn insert(&self, key: K, value: V) -> Option<V> {
            self.lock().insert(key, value)
        }

        pub(in super::super) fn remove(&self, key: &K) -> Option<V> {
            self.lock().remove(key)
        }

        pub(in super::super) fn len(&self) -> usize {
            self.lock().len()
        }

        fn lock(&self) -> MutexGuard<'_, collections::HashMap<K, V>> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }
}
