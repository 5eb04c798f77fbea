//! From the request to end to the end.

use std::rc::Rc;

use tokio::{task, time};

use super::{
    Lifecycle, Workers,
    control::Control,
    signals::{Request, Signals},
};

/// Who can ask the process to end.
#[derive(Debug)]
pub struct Stop {
    /// SIGTERM and SIGINT; the other signals are served while waiting for these.
    pub signals: Signals,
    /// `POST /quitquitquit`.
    pub control: Rc<Control>,
}

/// How the process is asked to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Asked {
    /// What is open may finish.
    Drain,
    /// At once.
    Quit,
}

impl Stop {
    async fn asked(&mut self) -> Asked {
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
                Request::Reread => {}
                Request::ReopenLogs => self.control.reopen_log_files(),
            }
        }
    }
}

/// Waits until the process is asked to end, and brings it there.
///
/// What is open has the drain time to finish. Asked a second time, or by
/// `/quitquitquit`, the process does not wait for it.
pub async fn run_to_end(mut stop: Stop, lifecycle: &Lifecycle, workers: Workers) {
    let asked = stop.asked().await;
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
