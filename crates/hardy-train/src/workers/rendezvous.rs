//! How a worker learns which it is and where the others meet: from the variables that torchrun sets, and srun, Ray and
//! shell loops can. Nothing is guessed: a launcher that this build does not speak to is refused, for otherwise every
//! process would make the whole run.

use crate::error::{Error, Result};

/// Where workers meet unless they are told otherwise: this machine.
const ADDRESS: &str = "127.0.0.1";
/// The port unless they are told otherwise, as in PyTorch.
const PORT: u16 = 29500;
/// What tells a process that `mpirun` started it, as one of so many.
const MPI: [&str; 2] = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE"];

/// What a launcher says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Launched {
    /// Nothing: this process is alone.
    Alone,
    /// It is one of several, which meet at an address.
    Meeting {
        /// Which, from 0.
        rank: usize,
        /// Of how many.
        size: usize,
        /// The address of worker 0.
        address: String,
        /// Its port.
        port: u16,
    },
    /// `mpirun` started it, as one of so many.
    Mpi(usize),
}

/// Reads what a launcher says; `variable` looks the environment up.
///
/// # Errors
/// Variables that are missing, or do not fit together.
pub fn launched(variable: impl Fn(&str) -> Option<String>) -> Result<Launched> {
    let number = |name: &str| -> Result<Option<usize>> {
        let Some(text) = variable(name) else { return Ok(None) };
        text.trim()
            .parse()
            .map(Some)
            .map_err(|_| Error::config(format!("{name} is `{text}`, which is no whole number")))
    };
    let (size, rank) = (number("WORLD_SIZE")?, number("RANK")?);
    for name in MPI {
        if let Some(size) = number(name)?.filter(|&size| size > 1) {
            return Ok(Launched::Mpi(size));
        }
    }
    let (rank, size) = match (rank, size) {
        (None, None | Some(1)) => return Ok(Launched::Alone),
        (Some(rank), None) => {
            return Err(Error::config(format!(
                "RANK is {rank}, but WORLD_SIZE is not set: start with torchrun, or set both; unset RANK for one process"
            )));
        }
        (_, Some(0)) => return Err(Error::config("WORLD_SIZE is 0: it is the number of workers, from 1")),
        (None, Some(size)) => {
            return Err(Error::config(format!(
                "WORLD_SIZE is {size}, but RANK is not set: start with torchrun, or set RANK from 0 to {}",
                size - 1
            )));
        }
        (Some(rank), Some(size)) if rank >= size => {
            return Err(Error::config(format!(
                "RANK is {rank}, but WORLD_SIZE is {size}: ranks go from 0 to {}",
                size - 1
            )));
        }
        (Some(_), Some(1)) => return Ok(Launched::Alone),
        (Some(rank), Some(size)) => (rank, size),
    };
    let port = number("HARDY_PORT")?.or(number("MASTER_PORT")?).unwrap_or(PORT.into());
    // torchrun's own store listens at MASTER_PORT.
    let port =
        port + usize::from(variable("TORCHELASTIC_RUN_ID").is_some() && variable("HARDY_PORT").is_none());
    let port =
        u16::try_from(port).map_err(|_| Error::config(format!("{port} is no port; set HARDY_PORT")))?;
    let address = variable("MASTER_ADDR").unwrap_or_else(|| ADDRESS.to_owned());
    Ok(Launched::Meeting { rank, size, address, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn within(environment: &[(&str, &str)]) -> Result<Launched> {
        launched(|name| {
            environment.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn torchruns_variables_are_understood() {
        assert_eq!(within(&[]).unwrap(), Launched::Alone);
        assert_eq!(within(&[("WORLD_SIZE", "1"), ("RANK", "0")]).unwrap(), Launched::Alone);
        let meeting = |port| Launched::Meeting { rank: 1, size: 2, address: "a".to_owned(), port };
        let set = [("WORLD_SIZE", "2"), ("RANK", "1"), ("MASTER_ADDR", "a"), ("MASTER_PORT", "5")];
        assert_eq!(within(&set).unwrap(), meeting(5));
        assert_eq!(within(&[&set[..], &[("TORCHELASTIC_RUN_ID", "x")]].concat()).unwrap(), meeting(6));
        assert_eq!(within(&[("OMPI_COMM_WORLD_SIZE", "4")]).unwrap(), Launched::Mpi(4));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let says = |environment: &[(&str, &str)], part: &str| {
            let said = within(environment).unwrap_err().to_string();
            assert!(said.contains(part), "{said}");
        };
        says(&[("WORLD_SIZE", "2")], "RANK is not set");
        says(&[("RANK", "1")], "WORLD_SIZE is not set");
        says(&[("RANK", "0"), ("WORLD_SIZE", "0")], "WORLD_SIZE is 0");
        says(&[("RANK", "3"), ("WORLD_SIZE", "1")], "ranks go from 0 to 0");
        says(&[("WORLD_SIZE", "2"), ("RANK", "2")], "ranks go from 0 to 1");
        says(&[("WORLD_SIZE", "two")], "WORLD_SIZE is `two`");
        says(&[("WORLD_SIZE", "2"), ("RANK", "0"), ("MASTER_PORT", "70000")], "no port");
    }
}
