//! `/logging`: the process log's levels.

use std::{fmt::Write, rc::Rc};

use super::{State, answer::Answer, endpoint::WRITE, request::Request, state::LogLevelError};

const USAGE: &str = "usage: /logging?<name>=<level> (change single level)
usage: /logging?paths=name1:level1,name2:level2,... (change multiple levels)
usage: /logging?level=<level> (change all levels)
usage: /logging?group=<group_name>:<level> (change group of loggers)
levels: trace debug info warning error critical off 
";

pub(super) fn answer(state: &Rc<State>, request: &Request) -> Answer {
    match change(state, request) {
        Ok(()) => Answer::text(levels(state)),
        Err(error) => Answer::bad_request(format!("error: {error}\n\n{USAGE}{}", levels(state))),
    }
}

#[derive(Debug, thiserror::Error)]
enum ChangeError {
    #[error("invalid number of parameters")]
    Count,
    #[error("empty logger name or empty logger level")]
    Shape,
    #[error(transparent)]
    Level(#[from] LogLevelError),
}

/// Makes all the changes or, on an error, none.
fn change(state: &State, request: &Request) -> Result<(), ChangeError> {
    let [(name, value)] = match &request.params[..] {
        [] => return Ok(()),
        // Sent by the form of the home page with what was left empty.
        params => {
            let given: Vec<_> = params
                .iter()
                .filter(|(_, value)| !value.is_empty())
                .collect();
            match given[..] {
                [] => return Ok(()),
                [one] => [one.clone()],
                _ => return Err(ChangeError::Count),
            }
        }
    };
    match name.as_str() {
        "level" => state.log.set_level(None, &value)?,
        "paths" | "group" => {
            let before = state.log.levels();
            for pair in value.split(',') {
                let changed = match pair.split_once(':') {
                    Some((name, level)) => state
                        .log
                        .set_level(Some(name), level)
                        .map_err(ChangeError::from),
                    None => Err(ChangeError::Shape),
                };
                if let Err(error) = changed {
                    for (name, level) in before {
                        state.log.set_level(Some(name), level)?;
                    }
                    return Err(error);
                }
            }
        }
        logger => state.log.set_level(Some(logger), &value)?,
    }
    Ok(())
}

fn levels(state: &State) -> String {
    let mut text = String::from("active loggers:\n");
    for (name, level) in state.log.levels() {
        writeln!(text, "  {name}: {level}").expect(WRITE);
    }
    text.push('\n');
    text
}
