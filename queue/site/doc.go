// Package site names the receivers that many domains share: by a table of suffixes of MX hosts, else by the set of the
// hosts. Limits are shared by a site; hosts, policies and back-off never are. See DESIGN.md.
package site
