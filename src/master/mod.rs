//! The master process: binds, forks, supervises. Never runs a request.
