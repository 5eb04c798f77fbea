//! The requests to end, and the way to the end.

use std::{rc::Rc, sync::Arc};

use tokio::{task, time};

use crate::{admin::state::ServerState, runtime::Runtime, xds::Configurator};

use super::{
    Lifecycle, Workers,
    control::Control,
    signals::{Request, Signals},
};

/// Who can ask the process to end.
pub struct Stop {
    /// SIGTERM and SIGINT; the other signals are served while waiting for these.
    pub signals: Signals,
    /// `POST /quitquitquit`.
    pub control: Rc<Control>,
    /// Whom SIGHUP asks to read all files again.
    pub configurator: Rc<Configurator>,
    /// Whose disk layers SIGHUP reads again as well.
    pub runtime: Arc<Runtime>,
}

/// How the process is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// What is open may finish.
    Drain,
    /// At once.
    Quit,
}

impl Stop {
    /// Resolves when the process is asked to end.
    pub async fn asked(&mut self) -> Asked {
        loop {
            let request = tokio::select! {
                request = self.signals.next() => request,
                () = self.control.quit_asked() => return Asked::Quit,
            };
            match request {
                Request::Stop(signal) => {
                    tracing::warn!(target: "main", "caught {signal}");
                    return Asked::Drain;
                }
                Request::Reread => {
                    self.runtime.reload();
                    self.configurator.reload_all();
                }
                Request::ReopenLogs => self.control.reopen_log_files(),
            }
        }
    }

    /// Resolves when everything is warm, so that workers can begin to accept.
    ///
    /// # Errors
    /// When the process is asked to end before.
    pub async fn warmed(&mut self) -> Result<(), Asked> {
        let mut phase = self.configurator.phase();
        let control = self.control.clone();
        let live = async {
            loop {
                let now = *phase.borrow_and_update();
                control.reached(now);
                if now == ServerState::Live || phase.changed().await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = live => Ok(()),
            asked = self.asked() => Err(asked),
        }
    }
}

/// Brings the process to its end.
///
/// What is open has the drain time to finish. Asked a second time, or by
/// `/quitquitquit`, the process does not wait for it.
pub async fn shut_down(asked: Asked, mut stop: Stop, lifecycle: &Lifecycle, workers: Workers) {
    tracing::info!(target: "main", "shutting down server instance");
    let mut ended = task::spawn_blocking(move || workers.join());
    if asked == Asked::Drain {
        stop.control.shut_down();
        tokio::select! {
            _ = &mut ended => return,
            _ = stop.asked() => {}
            () = time::sleep(lifecycle.drain_time()) => {
                tracing::warn!(target: "main", "the drain time is over, closing what is still open");
            }
        }
    }
    lifecycle.close();
    // A worker's panic has been logged where the threads are joined.
    drop(ended.await);
}
