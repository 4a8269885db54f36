//! Whose folder it is: a node's id, its cluster's, and the format of what is in it.

use std::{io, path::Path};

use super::{Disk, Folder, read_small, write_small};

const FILE: &str = "identity";
const FORMAT: u32 = 1;
const LIMIT: u64 = 4096;

/// The ids of a node and its store. The header of each file has both.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// The id of the store: a random number, drawn when it was founded.
    pub cluster: u64,
    /// The id of the node: a random number, drawn at its first start. A node that loses its disk draws another.
    pub node: u64,
}

/// Why a folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataFolderError {
    /// Another process has locked it.
    #[error("{folder}: another process uses this folder; stop it, or give this node a folder of its own")]
    InUse {
        /// The folder.
        folder: String,
    },
    /// It belongs to another cluster.
    #[error(
        "{folder}: belongs to cluster {found:016x}, not to {expected:016x}; give this node the folder of its own \
         cluster, or an empty one to join as a new node"
    )]
    OtherCluster {
        /// The folder.
        folder: String,
        /// The cluster that the folder belongs to.
        found: u64,
        /// The cluster that it should belong to.
        expected: u64,
    },
    /// It has a log or snapshots, but not the file that says whose they are.
    #[error("{folder}: has {file} but no file identity; restore it, or empty the folder to join as a new node")]
    NoIdentity {
        /// The folder.
        folder: String,
        /// A file of a node's.
        file: String,
    },
    /// The file with the ids cannot be read.
    #[error("{folder}/identity: {problem}; restore it, or empty the folder to join as a new node")]
    Damaged {
        /// The folder.
        folder: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A later version of this program wrote it.
    #[error(
        "{folder}: has format {found}, and this program knows {FORMAT}; run the program that wrote it, or a later one"
    )]
    Format {
        /// The folder.
        folder: String,
        /// The format that was found.
        found: u32,
    },
    /// The disk failed.
    #[error("{folder}: {source}")]
    Io {
        /// The folder.
        folder: String,
        /// The system's error.
        source: io::Error,
    },
}

/// A directory that this process has locked, with the ids of its node and store.
///
/// ```
/// use broadcast_store::disk::{DataFolder, Folder};
///
/// let path = std::env::temp_dir().join(format!("store-example-{}", std::process::id()));
/// let folder = DataFolder::open(Folder::open(&path)?, 7)?;
/// assert_eq!((folder.node(), folder.cluster()), (7, None));
/// # drop(folder);
/// # std::fs::remove_dir_all(path)?;
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Debug)]
pub struct DataFolder<D: Disk> {
    disk: D,
    node: u64,
    cluster: Option<u64>,
    _lock: D::Lock,
}

impl DataFolder<Folder> {
    /// Whether it is somebody's folder. To open it would make it so.
    pub(crate) fn is_in(path: &Path) -> bool {
        path.join(FILE).exists()
    }
}

impl<D: Disk> DataFolder<D> {
    /// Locks the folder and reads whose it is. An empty one becomes that of node `new_node`, which is stored before this
    /// returns: a node that is asked to found a cluster already has its id for good.
    pub fn open(disk: D, new_node: u64) -> Result<Self, DataFolderError> {
        let folder = disk.name();
        let io = |source| DataFolderError::Io { folder: folder.clone(), source };
        let Some(lock) = disk.lock().map_err(io)? else {
            return Err(DataFolderError::InUse { folder });
        };
        match disk.open(FILE) {
            Ok(file) => {
                // A process that ended may have given it its name without making that durable.
                disk.sync_folder().map_err(io)?;
                let bytes = read_small(&file, LIMIT).map_err(io)?;
                let (node, cluster) = parse(&folder, &bytes)?;
                Ok(Self { disk, node, cluster, _lock: lock })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let names = disk.list().map_err(io)?;
                if let Some(file) = names.into_iter().find(|name| name.ends_with(".log") || name.ends_with(".snapshot"))
                {
                    return Err(DataFolderError::NoIdentity { folder, file });
                }
                write_small(&disk, FILE, &format(new_node, None)).map_err(io)?;
                Ok(Self { disk, node: new_node, cluster: None, _lock: lock })
            }
            Err(error) => Err(io(error)),
        }
    }

    /// The node's id.
    pub fn node(&self) -> u64 {
        self.node
    }

    /// The cluster's id; `None` for a node that has joined none.
    pub fn cluster(&self) -> Option<u64> {
        self.cluster
    }

    /// The folder itself.
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Makes the folder one of `cluster`, for good, if it belongs to none yet.
    pub fn join(&mut self, cluster: u64) -> Result<Ids, DataFolderError> {
        match self.cluster {
            Some(found) if found != cluster => {
                Err(DataFolderError::OtherCluster { folder: self.disk.name(), found, expected: cluster })
            }
            Some(_) => Ok(Ids { cluster, node: self.node }),
            None => {
                write_small(&self.disk, FILE, &format(self.node, Some(cluster)))
                    .map_err(|source| DataFolderError::Io { folder: self.disk.name(), source })?;
                self.cluster = Some(cluster);
                Ok(Ids { cluster, node: self.node })
            }
        }
    }
}

// Lines of text, so that an operator can read them: `broadcast-store 1`, `node …`, `cluster …`, `checksum …`.
fn format(node: u64, cluster: Option<u64>) -> Vec<u8> {
    let mut text = format!("broadcast-store {FORMAT}\nnode {node:016x}\n");
    if let Some(cluster) = cluster {
        text += &format!("cluster {cluster:016x}\n");
    }
    let checksum = crc32fast::hash(text.as_bytes());
    text += &format!("checksum {checksum:08x}\n");
    text.into_bytes()
}

fn parse(folder: &str, bytes: &[u8]) -> Result<(u64, Option<u64>), DataFolderError> {
    let damaged = |problem: &str| DataFolderError::Damaged { folder: folder.into(), problem: problem.into() };
    let text = std::str::from_utf8(bytes).map_err(|_| damaged("is not text"))?;
    let version = text.lines().next().and_then(|line| line.strip_prefix("broadcast-store "));
    let version: u32 = version.and_then(|version| version.parse().ok()).ok_or_else(|| damaged("has no format"))?;
    if version != FORMAT {
        return Err(DataFolderError::Format { folder: folder.into(), found: version });
    }
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    let number = |text: &str| u64::from_str_radix(text, 16).map_err(|_| damaged("has an id that is no number"));
    let node = number(field("node").ok_or_else(|| damaged("has no node"))?)?;
    let cluster = field("cluster").map(number).transpose()?;
    // Formatting again compares the checksum, and each byte besides.
    if format(node, cluster) != bytes {
        return Err(damaged("does not fit its checksum"));
    }
    Ok((node, cluster))
}
