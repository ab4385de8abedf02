package records

import (
	"context"
	"crypto/tls"
	"net/netip"

	"relay/cluster/spool"
	pb "relay/cluster/spool/spoolpb"
	"relay/node/admin"
	"relay/node/directory"
	"relay/node/operator/edit"
	"relay/queue/remote"
	"relay/smtp/printable"
)

const (
	maxHosts   = 16
	maxSources = 32
	maxWeight  = 1000
)

// setHops checks where else a route's mail goes, and from where, and puts it into the route.
func setHops(r *pb.Route, h admin.RouteHops) (err error) {
	if r.More, err = moreTargets(r.Target, h.More); err != nil {
		return err
	}
	if r.Weights, err = weights(len(r.More)+1, h.Weights); err != nil {
		return err
	}
	if r.Fallback, err = fallback(r.Target, h.Fallback); err != nil {
		return err
	}
	if err = setRecipients(r, h); err != nil {
		return err
	}
	if len(h.Sources) > maxSources {
		return admin.Invalid("at most %d source addresses", maxSources)
	}
	for _, text := range h.Sources {
		one, err := netip.ParseAddr(text)
		if err != nil || one.Zone() != "" || one.IsUnspecified() || one.IsMulticast() {
			return admin.Invalid("%q is not an address to connect from", printable.Text(text, MaxName))
		}
		r.Sources = append(r.Sources, one.Unmap().String())
	}
	if to, err := remote.ParseTarget(r.Target); len(r.Sources) > 0 && (err != nil || to.Kind == remote.Discard) {
		return admin.Invalid("--source is for mx, smtp: and lmtp: routes")
	}
	return nil
}

// setRecipients says whether anyone may send to the domain, and for which recipients.
func setRecipients(r *pb.Route, h admin.RouteHops) error {
	r.Callout, r.Recipients = h.Callout, h.Recipients
	to, _ := remote.ParseTarget(r.Target)
	switch {
	case r.Recipients != "" && r.Recipients != ListedRecipients:
		return admin.Invalid("--recipients is list: 'relayctl route recipients' says what it has; --callout asks the host")
	case !r.Callout && r.Recipients == "":
		return nil
	case r.Callout && r.Recipients != "":
		return admin.Invalid("either a list has the recipients (--recipients list), or the host is asked (--callout)")
	case r.From != "" || r.Login != "":
		return admin.Invalid("--callout and --recipients are for all senders: give them to the route without --from and " +
			"--login")
	case r.Recipients != "" && r.Domain == "*":
		return admin.Invalid("--recipients is for one domain")
	case r.Callout && (r.Domain == "*" || to.Kind != remote.SMTP && to.Kind != remote.LMTP):
		return admin.Invalid("--callout is for one domain with a host to ask: give smtp:HOST[:PORT] or lmtp:HOST:PORT")
	}
	return nil
}

// moreTargets checks targets that stand beside the first: hosts all of them, spoken to alike.
func moreTargets(first string, more []string) ([]string, error) {
	if len(more) >= maxHosts {
		return nil, admin.Invalid("at most %d targets", maxHosts)
	}
	kind, _ := remote.ParseTarget(first)
	seen := map[string]bool{first: true}
	var all []string
	for _, text := range more {
		target, err := RouteTarget(text)
		if err != nil {
			return nil, err
		}
		to, _ := remote.ParseTarget(target)
		switch {
		case to.Kind != kind.Kind || to.Kind != remote.SMTP && to.Kind != remote.LMTP:
			return nil, admin.Invalid("several targets are all smtp: or all lmtp:, which %s is not",
				printable.Text(target, MaxName))
		case seen[target]:
			return nil, admin.Invalid("%s is named twice: give it more weight by --weight", printable.Text(target, MaxName))
		}
		seen[target], all = true, append(all, target)
	}
	return all, nil
}

func weights(targets int, all []uint32) ([]uint32, error) {
	if len(all) == 0 {
		return nil, nil
	}
	if len(all) != targets || targets == 1 {
		return nil, admin.Invalid("--weight has %d numbers, and there are %d targets: give each its own, as in --weight 3,1",
			len(all), targets)
	}
	for _, w := range all {
		if w < 1 || w > maxWeight {
			return nil, admin.Invalid("a weight is a number from 1 to %d", maxWeight)
		}
	}
	return all, nil
}

func fallback(target, text string) (string, error) {
	if text == "" {
		return "", nil
	}
	last, err := RouteTarget(text)
	if err != nil {
		return "", err
	}
	first, _ := remote.ParseTarget(target)
	to, _ := remote.ParseTarget(last)
	switch {
	case to.Kind != remote.SMTP:
		return "", admin.Invalid("--fallback is a host: give smtp:HOST[:PORT]")
	case first.Kind != remote.SMTP && first.Kind != remote.MX:
		return "", admin.Invalid("--fallback is for mx and smtp: routes")
	case last == target:
		return "", admin.Invalid("--fallback is the target itself")
	}
	return last, nil
}

// setCert checks what the relay shows to hosts. Without a policy of its own, TLS is verified then.
func setCert(r *pb.Route, c admin.RouteCert) error {
	if c.ClientCert == "" {
		if c.ClientKey != "" {
			return admin.Invalid("--client-key goes with --client-cert")
		}
		return nil
	}
	if c.ClientKey != "" {
		if _, err := tls.X509KeyPair([]byte(c.ClientCert), []byte(c.ClientKey)); err != nil {
			return admin.Invalid("certificate and key of --client-cert and --client-key do not fit: %v", err)
		}
	}
	kept, err := certificates("--client-cert", c.ClientCert)
	if err != nil {
		return err
	}
	switch to, _ := remote.ParseTarget(r.Target); {
	case to.Kind == remote.Discard:
		return admin.Invalid("--client-cert is for mx, smtp: and lmtp: routes")
	case r.Tls == "":
		r.Tls = "verify"
	case r.Tls == "none" || r.Tls == "opportunistic":
		return admin.Invalid("--client-cert needs TLS: give --tls verify, fingerprint or encrypt")
	}
	r.ClientCert = kept
	return nil
}

// sealKey puts the key of a route's certificate into the form it is kept in. Without a new one the present one stays,
// for the same certificate and targets.
func (rs *Records) sealKey(ctx context.Context, r *pb.Route, key string) (err error) {
	if r.ClientCert == "" {
		return nil
	}
	about := directory.RouteKeySecret(r)
	r.ClientKey, err = rs.sealed(ctx, key, about, func(old *pb.Route) []byte {
		if directory.RouteKeySecret(old) != about {
			return nil
		}
		return old.ClientKey
	})
	if err == nil && len(r.ClientKey) == 0 {
		return admin.Invalid("the key of the certificate is needed: give it with --client-key")
	}
	return err
}

// sealed seals a secret of a route. Without a new one it returns the present one, which kept finds in a route; nothing
// where no route has it.
func (rs *Records) sealed(ctx context.Context, secret, about string,
	kept func(*pb.Route) []byte) (one []byte, err error) {
	if secret != "" {
		one, err = rs.replica.Seal(ctx, []byte(secret), about)
		return one, edit.ProposalError(err)
	}
	if err := rs.edit.Current(ctx); err != nil {
		return nil, err
	}
	err = rs.replica.View(func(v spool.View) error {
		all, err := v.Routes()
		for _, old := range all {
			if found := kept(old); len(one) == 0 && len(found) > 0 {
				one = found
			}
		}
		return err
	})
	return one, err
}
