package admintest

import (
	"cmp"
	"context"
	"slices"

	"relay/node/admin"
)

// Signers implements admin.Signers.
func (f *Fake) Signers(context.Context) ([]admin.Signer, error) {
	unlock, err := f.ask("Signers")
	if err != nil {
		return nil, err
	}
	defer unlock()
	return slices.Clone(f.signers), nil
}

// AddSigner implements admin.Signers. Its keys are no keys.
func (f *Fake) AddSigner(_ context.Context, by admin.By, s admin.SignerAdd) (*admin.Signer, error) {
	unlock, _, err := f.change("AddSigner", by, "dkim add %s", s.Domain)
	if err != nil {
		return nil, err
	}
	defer unlock()
	s.Algorithm, s.Selector = cmp.Or(s.Algorithm, "rsa"), cmp.Or(s.Selector, f.Now.Format("20060102"))
	k := admin.Signer{
		Domain: s.Domain, Selector: s.Selector, Algorithm: s.Algorithm, Created: f.at(0),
		Name: s.Selector + "._domainkey." + s.Domain, Record: "v=DKIM1; k=" + s.Algorithm + "; p=MIIB",
	}
	switch {
	case f.domains[s.Domain].Name == "":
		return nil, notLocal(s.Domain)
	case s.Algorithm != "rsa" && s.Algorithm != "ed25519":
		return nil, admin.Invalid("%s is neither rsa nor ed25519", s.Algorithm)
	case f.signer(k.Domain, k.Selector) >= 0:
		return nil, admin.Exists("signing key", k.Name)
	}
	for i, old := range f.signers {
		if s.Rotate && old.Domain == k.Domain && old.Algorithm == k.Algorithm && !old.Retired {
			k.Waiting = s.Wait
			f.signers[i].Retired = !s.Wait
		}
	}
	k.Retired = k.Waiting
	f.signers = append(f.signers, k)
	return &k, nil
}

func (f *Fake) signer(domain, selector string) int {
	return slices.IndexFunc(f.signers, func(k admin.Signer) bool { return k.Domain == domain && k.Selector == selector })
}

// ActivateSigner implements admin.Signers.
func (f *Fake) ActivateSigner(_ context.Context, by admin.By, domain, selector string) (*admin.Signer, error) {
	unlock, _, err := f.change("ActivateSigner", by, "dkim activate %s %s", domain, selector)
	if err != nil {
		return nil, err
	}
	defer unlock()
	at := f.signer(domain, selector)
	if at < 0 {
		return nil, admin.NotFound("signing key", selector)
	}
	for i := range f.signers {
		if k := &f.signers[i]; k.Domain == domain && k.Algorithm == f.signers[at].Algorithm {
			k.Retired, k.Waiting = i != at, false
		}
	}
	k := f.signers[at]
	return &k, nil
}

// RemoveSigner implements admin.Signers.
func (f *Fake) RemoveSigner(_ context.Context, by admin.By, domain, selector string) error {
	unlock, _, err := f.change("RemoveSigner", by, "dkim rm %s %s", domain, selector)
	if err != nil {
		return err
	}
	defer unlock()
	at := f.signer(domain, selector)
	if at < 0 {
		return admin.NotFound("signing key", selector)
	}
	f.signers = slices.Delete(f.signers, at, at+1)
	return nil
}
