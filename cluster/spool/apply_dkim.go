package spool

import (
	pb "relay/cluster/spool/spoolpb"
)

func keyDkim(domain, selector string) []byte { return key(kDkim, domain+"\x00"+selector) }

// putDkim stores a signing key. With retire_others the older keys of the domain
// stop signing in the same step: a rotation has no moment without a key.
func (t *tx) putDkim(h *pb.PutDkim) *pb.Result {
	k := h.GetKey()
	if h.Activate {
		return t.activateDkim(k.GetDomain(), k.GetSelector())
	}
	if k.GetDomain() == "" || k.GetSelector() == "" || len(k.GetPrivate()) == 0 {
		return t.refuse(pb.Code_INVALID, "a signing key needs a domain, a selector and a key")
	}
	if t.get(key(kDomain, k.Domain)) == nil {
		return t.refuse(pb.Code_INVALID, "domain %s is not local: add it with 'relayctl domain add %s' first",
			k.Domain, k.Domain)
	}
	if t.get(keyDkim(k.Domain, k.Selector)) != nil {
		return t.refuse(pb.Code_EXISTS, "domain %s has a key with selector %s", k.Domain, k.Selector)
	}
	if h.RetireOthers {
		t.retireDkim(k)
	}
	k.CreatedMs = t.clock
	t.write(keyDkim(k.Domain, k.Selector), k)
	t.changes.Directory = true
	return t.ok()
}

// retireDkim has the keys of a domain with the algorithm of another sign no more.
func (t *tx) retireDkim(k *pb.DkimKey) {
	t.scan(key(kDkim, k.Domain+"\x00"), 0, func(at, v []byte) {
		var old pb.DkimKey
		if t.unmarshal(at, v, &old) && old.Algorithm == k.Algorithm && !old.Retired {
			old.Retired = true
			t.write(at, &old)
		}
	})
}

// activateDkim has a key sign that is there and does not.
func (t *tx) activateDkim(domain, selector string) *pb.Result {
	var k pb.DkimKey
	if !t.read(keyDkim(domain, selector), &k) {
		return t.refuse(pb.Code_MISSING, "domain %s has no key with selector %s: 'relayctl dkim ls' lists them",
			domain, selector)
	}
	t.retireDkim(&k)
	k.Retired = false
	t.write(keyDkim(domain, selector), &k)
	t.changes.Directory = true
	return t.ok()
}

func (t *tx) dropDkim(h *pb.DropDkim) *pb.Result {
	return t.dropRecord(keyDkim(h.Domain, h.Selector), "signing key "+h.Selector+" of", h.Domain)
}

// HasDkimKeys reports whether there is a signing key, of whichever domain.
func (v View) HasDkimKeys() (has bool, err error) {
	err = v.R.Scan([]byte{kDkim}, []byte{kDkim + 1}, func(_, _ []byte) bool {
		has = true
		return false
	})
	return has, err
}

// DkimKeys returns the signing keys of a domain, or of all for "".
func (v View) DkimKeys(domain string) ([]*pb.DkimKey, error) {
	prefix := []byte{kDkim}
	if domain != "" {
		prefix = key(kDkim, domain+"\x00")
	}
	return list(v.R, prefix, func() *pb.DkimKey { return new(pb.DkimKey) })
}
