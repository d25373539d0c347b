//! The store from outside: the suite that every backend passes, and what only a file can get wrong.

mod memory;
mod sqlite;
