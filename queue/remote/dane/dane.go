package dane

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Usages of a certificate that SMTP knows (RFC 7672 §3.1). PKIX-TA (0) and PKIX-EE (1) are unusable here.
const (
	UsageTA = 2 // the record names a CA of the host's
	UsageEE = 3 // the record names the host's own certificate or key
)

const (
	selectCert = 0 // the whole certificate
	selectKey  = 1 // SubjectPublicKeyInfo

	matchFull   = 0
	matchSHA256 = 1
	matchSHA512 = 2
)

// Record is one TLSA record.
type Record struct {
	Usage, Selector, Matching uint8
	Data                      []byte
}

// usable reports whether a client of SMTP can go by the record (RFC 7672 §3.1.3, RFC 7671 §10.1.2).
func (r Record) usable() bool {
	if r.Usage != UsageTA && r.Usage != UsageEE || r.Selector > selectKey {
		return false
	}
	switch r.Matching {
	case matchFull:
		return len(r.Data) > 0 && r.parses()
	case matchSHA256:
		return len(r.Data) == sha256.Size
	case matchSHA512:
		return len(r.Data) == sha512.Size
	}
	return false
}

// matches reports whether the record names a certificate, of which both forms are given.
func (r Record) matches(cert, key []byte) bool {
	what := cert
	if r.Selector == selectKey {
		what = key
	}
	switch r.Matching {
	case matchSHA256:
		sum := sha256.Sum256(what)
		return bytes.Equal(sum[:], r.Data)
	case matchSHA512:
		sum := sha512.Sum512(what)
		return bytes.Equal(sum[:], r.Data)
	}
	return bytes.Equal(what, r.Data)
}

func (r Record) compare(o Record) int {
	return cmp.Or(cmp.Compare(r.Usage, o.Usage), cmp.Compare(r.Selector, o.Selector), cmp.Compare(r.Matching, o.Matching),
		bytes.Compare(r.Data, o.Data))
}

// maxRecords are judged by at most: each may cost a check of a signature, and strangers write them.
const maxRecords = 32

// Usable returns the records that a certificate may be judged by, sorted and each once. Of digests of one usage and
// selector only the strongest kind counts (RFC 7671 §9): a weaker one must not open what the stronger one closes.
func Usable(all []Record) []Record {
	var kept []Record
	for _, r := range all[:min(len(all), maxRecords)] {
		stronger := func(o Record) bool {
			return o.usable() && o.Usage == r.Usage && o.Selector == r.Selector && o.Matching > r.Matching
		}
		if r.usable() && (r.Matching == matchFull || !slices.ContainsFunc(all, stronger)) {
			kept = append(kept, r)
		}
	}
	slices.SortFunc(kept, Record.compare)
	return slices.CompactFunc(kept, func(a, b Record) bool { return a.compare(b) == 0 })
}

// Names reports whether a certificate that the records judge has to be for one of the host's names: a CA's record
// says nothing of who the host is (RFC 7672 §3.1.2).
func Names(records []Record) bool {
	return slices.ContainsFunc(records, func(r Record) bool { return r.Usage == UsageTA })
}

// Text writes records so that Parse reads them, "3 1 1 HEX" each, parted by commas. Equal lists have equal texts.
func Text(records []Record) string {
	var b strings.Builder
	for i, r := range records {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d %d %d %s", r.Usage, r.Selector, r.Matching, hex.EncodeToString(r.Data))
	}
	return b.String()
}

// Parse reads what Text has written.
func Parse(text string) ([]Record, error) {
	var all []Record
	for one := range strings.SplitSeq(text, ",") {
		fields := strings.Fields(one)
		if len(fields) != 4 {
			return nil, fmt.Errorf("dane: %q is not a TLSA record", one)
		}
		var n [3]uint8
		for i := range n {
			v, err := strconv.ParseUint(fields[i], 10, 8)
			if err != nil {
				return nil, fmt.Errorf("dane: %q is not a TLSA record", one)
			}
			n[i] = uint8(v)
		}
		data, err := hex.DecodeString(fields[3])
		if err != nil {
			return nil, fmt.Errorf("dane: %q is not a TLSA record", one)
		}
		all = append(all, Record{n[0], n[1], n[2], data})
	}
	return all, nil
}
