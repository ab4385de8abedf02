// Package limit has limits on what goes to a site, a domain or a route, and how they hold for a whole cluster: a Ledger
// on the leader gives out shares, and Gates on each node go by them. It knows no network and no spool. See DESIGN.md.
package limit
