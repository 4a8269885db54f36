//! The API on a node, over real connections.
