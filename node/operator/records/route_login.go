package records

import (
	"context"
	"net/netip"
	"strings"

	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/directory"
	"relay/queue/remote"
	"relay/queue/remote/oauth"
	"relay/smtp/printable"
)

const maxLogin = 255 // octets of a user name, and of a password

// setLogin checks as whom a route logs in. Without a policy of its own, TLS is verified then.
func setLogin(r *pb.Route, l admin.RouteLogin) error {
	if l.User == "" {
		if l.Password != "" || l.OAuth {
			return admin.Invalid("a password goes with --user: give the name to log in as")
		}
		return nil
	}
	texts := map[string]string{"user name": l.User, "password": l.Password}
	if l.OAuth {
		if err := checkCredential(l.Password); err != nil {
			return err
		}
		delete(texts, "password")
	}
	for what, text := range texts {
		if len(text) > maxLogin || strings.ContainsAny(text, "\x00\r\n") {
			return admin.Invalid("the %s has more than %d octets, a NUL or a line end", what, maxLogin)
		}
	}
	to, err := remote.ParseTarget(r.Target)
	if err != nil {
		return err
	}
	if to.Kind != remote.SMTP && to.Kind != remote.LMTP {
		return admin.Invalid("--user is for one host: give smtp:HOST:587 as the target, not %s",
			printable.Text(r.Target, MaxName))
	}
	switch {
	case r.Tls == "" && !allLoopback(to.Host, r.More):
		r.Tls = "verify"
	case r.Tls == "opportunistic":
		return admin.Invalid("with --tls opportunistic the password could go in clear: give --tls verify, fingerprint or " +
			"encrypt; --tls none if it may")
	}
	r.User, r.Oauth = l.User, l.OAuth
	return nil
}

const maxCredential = 32 << 10 // octets of JSON

// checkCredential checks what tokens are had for; none is the one that is kept.
func checkCredential(text string) error {
	if text == "" {
		return nil
	}
	if len(text) > maxCredential {
		return admin.Invalid("the credential of --oauth has more than 32 KiB")
	}
	if _, err := oauth.Parse([]byte(text)); err != nil {
		return admin.Invalid("the credential of --oauth can't be used: %v", err)
	}
	return nil
}

// allLoopback reports whether all hosts of a route are this machine.
func allLoopback(host string, more []string) bool {
	for _, text := range more {
		if t, err := remote.ParseTarget(text); err != nil || !loopbackHost(t.Host) {
			return false
		}
	}
	return loopbackHost(host)
}

// loopbackHost reports whether a host is this machine, which no password leaves.
func loopbackHost(host string) bool {
	addr, err := netip.ParseAddr(host)
	return strings.EqualFold(host, "localhost") || err == nil && addr.Unmap().IsLoopback()
}

// sealPassword puts the password of a route into the form it is kept in. Without a new one the present one stays, for
// the same account of the same target.
func (rs *Records) sealPassword(ctx context.Context, r *pb.Route, password string) (err error) {
	if r.User == "" {
		return nil
	}
	about := directory.RouteSecret(r)
	r.Password, err = rs.sealed(ctx, password, about, func(old *pb.Route) []byte {
		if old.Oauth != r.Oauth || directory.RouteSecret(old) != about {
			return nil
		}
		return old.Password
	})
	if err == nil && len(r.Password) == 0 {
		return admin.Invalid("the password of %s at %s is needed: give it on standard input with --password-stdin, or a "+
			"credential for tokens with --oauth",
			printable.Text(r.User, MaxName), printable.Text(r.Target, MaxName))
	}
	return err
}
