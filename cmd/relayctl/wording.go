package main

import (
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"relay/node/admin"
)

// flagError says in plain words what is wrong with a flag.
func flagError(_ *cobra.Command, err error) error {
	var bad *pflag.InvalidValueError
	if !errors.As(err, &bad) {
		return err
	}
	f := bad.GetFlag()
	want := map[string]string{
		"int": "a whole number", "int64": "a whole number", "uint": "a whole number from 0 on", "uint32": "a whole number from 0 on",
		"uint64": "a whole number from 0 on", "bool": "true or false", "duration": `a span such as "30s" or "2h"`, "float64": "a number",
	}[f.Value.Type()]
	if want == "" {
		want = f.Value.Type()
	}
	return usagef("--%s %q is not %s", f.Name, bad.GetValue(), want)
}

// unreachable says why no node answers, and what to do about it.
func unreachable(none *admin.Unreachable) string {
	where := strings.Join(none.Addrs, ", ")
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.As(none.Cause, &authority):
		return fmt.Sprintf("the certificate at %s is of an authority that this machine does not trust: "+
			"name the authority's certificate with --ca FILE or RELAY_CA; one that 'relayd init' made is its own authority", where)
	case errors.As(none.Cause, &name):
		return fmt.Sprintf("the certificate at %s is not for that name (%v): name the node as its certificate does", where, name)
	case errors.As(none.Cause, &invalid):
		return fmt.Sprintf("the certificate at %s can not be used (%v): renew it, and look at this machine's clock", where, invalid)
	case errors.Is(none.Cause, syscall.ECONNREFUSED):
		return fmt.Sprintf("no node runs at %s, the connection was refused; start one with 'relayd run' or 'relayd dev', "+
			"or name one with --addr or RELAY_ADDR", where)
	}
	return none.Error() + "; start one with 'relayd dev', or name one with --addr or RELAY_ADDR"
}

// between checks a number before it is sent.
func between(flag string, n, low, high int) error {
	if n < low || n > high {
		return usagef("--%s %d is not between %d and %d", flag, n, low, high)
	}
	return nil
}
