// Package admintest is a small relay in memory behind the ports of package
// admin, for tests of the API, its client and relayctl.
package admintest
