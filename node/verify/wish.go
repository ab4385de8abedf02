package verify

// Wish is what the domains concerned want done with a message.
type Wish uint8

// The wishes.
const (
	Whatever    Wish = iota // nothing speaks against it, or not enough
	RefuseDMARC             // the author's domain wants it refused
	RefuseSPF               // that domain says nothing, but the sender's does not know the client
	Unknown                 // it may be one of these: ask again later
	RefuseCrowd             // more authors than are asked about: one of them may want it refused
)

// Wish returns what the domains want, and which of them. If the author's
// domain has a DMARC policy, that alone counts, so that forwarded and list mail
// is not refused for its reverse-path (RFC 7489 §6.7). If it has none, a
// fail of SPF counts (RFC 7208 §8.4), unless a signature of the author's domain
// is good.
func (r *Result) Wish() (Wish, string) {
	published := false
	var unknown *DMARC
	for i := range r.DMARC {
		d := &r.DMARC[i]
		switch {
		case d.Outcome == Fail && d.Wanted == Reject:
			return RefuseDMARC, d.Domain
		case d.Outcome == TempError && (d.Policy == Reject || d.Policy == ""):
			unknown = d
		}
		published = published || d.Outcome != None
	}
	switch {
	case r.Crowd: // RFC 7489 §6.6.1
		return RefuseCrowd, ""
	case unknown != nil:
		return Unknown, unknown.Domain
	case published || r.SPF.Outcome != Fail && r.SPF.Outcome != TempError:
		return Whatever, ""
	}
	return r.withoutPolicy()
}

func (r *Result) withoutPolicy() (Wish, string) {
	perhaps := r.SPF.Outcome == TempError
	for _, d := range r.DMARC {
		switch d.aligned {
		case Pass:
			return Whatever, ""
		case TempError:
			perhaps = true
		}
	}
	if perhaps {
		return Unknown, r.SPF.Domain
	}
	return RefuseSPF, r.SPF.Domain
}
