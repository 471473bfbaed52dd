//! Copies a directory tree of plain files, the way a data directory is one.

use std::fs;
use std::path::Path;

use crate::account::Account;
use crate::error::ServerError;

/// Copies `from` to the new directory `to`, owned by `account`. Files are cloned where the file system can
/// (`fs::copy` tries `copy_file_range`); modes are kept.
pub(crate) fn tree(from: &Path, to: &Path, account: &Account) -> Result<(), ServerError> {
    fs::create_dir(to).map_err(ServerError::io("create", to))?;
    for entry in fs::read_dir(from).map_err(ServerError::io("read", from))? {
        let entry = entry.map_err(ServerError::io("read", from))?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        if entry
            .file_type()
            .map_err(ServerError::io("read", &source))?
            .is_dir()
        {
            tree(&source, &target, account)?;
        } else {
            fs::copy(&source, &target).map_err(ServerError::io("write", &target))?;
            account.own(&target)?;
        }
    }
    let mode = fs::metadata(from)
        .map_err(ServerError::io("read", from))?
        .permissions();
    fs::set_permissions(to, mode).map_err(ServerError::io("restrict", to))?;
    account.own(to)
}
