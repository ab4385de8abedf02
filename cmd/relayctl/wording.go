package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"

	"relay/cmd/internal/wording"
	"relay/node/admin"
)

// unreachable says why no node answers, and what to do about it.
func unreachable(none *admin.Unreachable) string {
	where := strings.Join(none.Addrs, ", ")
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(none.Cause, &authority):
		return fmt.Sprintf("the certificate at %s is of an authority that this machine does not trust: "+
			"name the authority's certificate with --ca FILE or RELAY_CA; one that 'relayd init' made is its own authority",
			where)
	case errors.As(none.Cause, &name):
		return fmt.Sprintf("the certificate at %s is not for that name (%v): name the node as its certificate does", where,
			name)
	case errors.As(none.Cause, &invalid):
		return fmt.Sprintf("the certificate at %s can not be used (%v): renew it, and look at this machine's clock", where,
			invalid)
	case errors.Is(none.Cause, syscall.ECONNREFUSED):
		return fmt.Sprintf("no node runs at %s, the connection was refused; start one with 'relayd run' or 'relayd dev', "+
			"or name one with --addr or RELAY_ADDR", where)
	}
	if errors.Is(none.Cause, http.ErrSchemeMismatch) {
		return fmt.Sprintf("what answers at %s speaks HTTP without TLS, so write http:// and not https://", where)
	}
	if text := none.Cause.Error(); strings.Contains(text, "malformed HTTP") ||
		strings.Contains(text, "readLoopPeekFail") || strings.Contains(text, "unsolicited") {
		return fmt.Sprintf("what answers at %s does not speak HTTP, so it is not an admin port: name one with --addr or "+
			"RELAY_ADDR", where)
	}
	return fmt.Sprintf("no node answers at %s: %s; start one with 'relayd dev', or name one with --addr or RELAY_ADDR",
		where, wording.Net(none.Cause))
}

// ofUsage reports whether a node refused a value of the command line, or an end of an
// id that several have, and whether it named the next step. A refusal by
// the state of the cluster is no mistake of the command line.
func ofUsage(err error) (refused, next bool) {
	var problem *admin.Error
	if !errors.As(err, &problem) {
		return false, false
	}
	refused = errors.Is(problem, admin.ErrInvalid) && problem.Title != admin.TitleState ||
		problem.Title == admin.TitleAmbiguous
	return refused, refused && problem.Next != ""
}

// ofContent is for what a node refuses of a file's content, which is no mistake of the
// command line.
func ofContent(err error) error {
	if refused, _ := ofUsage(err); refused {
		return errors.New(err.Error())
	}
	return err
}

// between checks a number before it is sent.
func between(flag string, n, low, high int) error {
	if n < low || n > high {
		return usagef("--%s %d is not between %d and %d", flag, n, low, high)
	}
	return nil
}
