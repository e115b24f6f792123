//! How many streams to targets there may be at a time.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A limited number of places, which the operator may change while some are taken.
#[derive(Debug)]
pub struct StreamPlaces {
    free: Arc<Semaphore>,
    limit: Mutex<usize>,
}

impl StreamPlaces {
    /// So many places.
    pub fn new(limit: usize) -> Self {
        let limit = limit.min(Semaphore::MAX_PERMITS);
        StreamPlaces { free: Arc::new(Semaphore::new(limit)), limit: Mutex::new(limit) }
    }

    /// A place, until it is dropped; `None` if all are taken.
    pub fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    /// So many places from now on. Nobody loses one: of those that are taken as many as are too many stay in use, and are
    /// given out again once they are free.
    pub fn set_limit(&self, wanted: usize) {
        let wanted = wanted.min(Semaphore::MAX_PERMITS);
        let mut limit = self.limit.lock().unwrap_or_else(PoisonError::into_inner);
        if wanted > *limit {
            self.free.add_permits(wanted - *limit);
            *limit = wanted;
        } else {
            *limit -= self.free.forget_permits(*limit - wanted);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_can_change_while_places_are_taken() {
        let places = StreamPlaces::new(0);
        assert!(places.take().is_none());
        places.set_limit(2);
        let (one, two) = (places.take().unwrap(), places.take().unwrap());
        assert!(places.take().is_none());
        places.set_limit(1);
        drop((one, two));
        places.set_limit(1);
        let last = places.take();
        assert!(last.is_some() && places.take().is_none());
    }
}
