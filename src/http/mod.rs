//! HTTP: servers, locations, the request pipeline and its modules.
