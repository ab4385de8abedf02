package dane

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// issued is a certificate with its key.
type issued struct {
	*x509.Certificate
	key *ecdsa.PrivateKey
}

// issue makes a certificate, of itself where by is nil.
func issue(t *testing.T, by *issued, ca bool, common string, names []string, until time.Time) *issued {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	x := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: common}, DNSNames: names,
		NotBefore: until.Add(-48 * time.Hour), NotAfter: until, IsCA: ca, BasicConstraintsValid: true}
	one := &issued{x, key}
	if by == nil {
		by = one
	}
	der, err := x509.CreateCertificate(rand.Reader, x, by.Certificate, &key.PublicKey, by.key)
	require.NoError(t, err)
	one.Certificate, err = x509.ParseCertificate(der)
	require.NoError(t, err)
	return one
}

// tlsa makes the record of a certificate.
func tlsa(usage, selector, matching uint8, c *issued) Record {
	data := c.Raw
	if selector == selectKey {
		data = c.RawSubjectPublicKeyInfo
	}
	switch matching {
	case matchSHA256:
		sum := sha256.Sum256(data)
		data = sum[:]
	case matchSHA512:
		sum := sha512.Sum512(data)
		data = sum[:]
	}
	return Record{usage, selector, matching, data}
}

func TestVerify(t *testing.T) {
	now := time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC)
	later, before := now.Add(24*time.Hour), now.Add(-time.Hour)
	root := issue(t, nil, true, "root", nil, later)
	between := issue(t, root, true, "between", nil, later)
	host := issue(t, between, false, "", []string{"mx.x"}, later)
	old := issue(t, between, false, "", []string{"mx.x"}, before)
	common := issue(t, between, false, "MX.x", nil, later)
	wild := issue(t, between, false, "*.x", nil, later)
	own := issue(t, nil, true, "", []string{"elsewhere"}, before)
	stranger := issue(t, nil, true, "stranger", nil, later)
	type list = []*issued
	full, byRoot, mx := list{host, between, root}, []Record{tlsa(2, 0, 1, root)}, []string{"mx.x"}
	for name, c := range map[string]struct {
		chain   list
		records []Record
		names   []string
		want    string // of the error
	}{
		"own, whole":                    {list{own}, []Record{tlsa(3, 0, 0, own)}, nil, ""},
		"own, SHA-256":                  {list{own}, []Record{tlsa(3, 0, 1, own)}, nil, ""},
		"own, SHA-512":                  {list{own}, []Record{tlsa(3, 0, 2, own)}, nil, ""},
		"own key, whole":                {list{own}, []Record{tlsa(3, 1, 0, own)}, nil, ""},
		"own key, SHA-256":              {list{own}, []Record{tlsa(3, 1, 1, own)}, nil, ""},
		"own key, SHA-512":              {list{own}, []Record{tlsa(3, 1, 2, own)}, nil, ""},
		"the second record fits":        {list{own}, []Record{tlsa(3, 1, 1, host), tlsa(3, 0, 1, own)}, nil, ""},
		"another's":                     {list{own}, []Record{tlsa(3, 1, 1, host)}, nil, "none of those"},
		"it names a CA, not the host":   {list{host, between}, []Record{tlsa(3, 1, 1, between)}, nil, "none of those"},
		"CA, SHA-256":                   {full, byRoot, mx, ""},
		"CA in between":                 {list{host, between}, []Record{tlsa(2, 1, 1, between)}, mx, ""},
		"CA of the record":              {list{host, between}, []Record{tlsa(2, 0, 0, root)}, mx, ""},
		"CA's key of the record":        {list{host, between}, []Record{tlsa(2, 1, 0, root)}, mx, ""},
		"key of the CA in between":      {list{host}, []Record{tlsa(2, 1, 0, between)}, mx, ""},
		"CA, the domain's name":         {full, byRoot, []string{"y", "mx.x"}, ""},
		"CA, common name":               {list{common, between, root}, byRoot, mx, ""},
		"CA, wildcard":                  {list{wild, between, root}, byRoot, mx, ""},
		"CA, wildcard too short":        {list{wild, between, root}, byRoot, []string{"a.mx.x"}, "is not for a.mx.x"},
		"CA, wrong name":                {full, byRoot, []string{"mx.y", "y"}, "is not for mx.y or y"},
		"CA, expired":                   {list{old, between, root}, byRoot, mx, "expired"},
		"CA that is not in the chain":   {list{host}, byRoot, mx, "none of those"},
		"CA beside the chain":           {list{host, stranger}, []Record{tlsa(2, 0, 1, stranger)}, mx, "does not vouch"},
		"CA of the record, another's":   {list{host, between}, []Record{tlsa(2, 0, 0, stranger)}, mx, "does not vouch"},
		"CA's key, another's":           {list{host, between}, []Record{tlsa(2, 1, 0, stranger)}, mx, "none of those"},
		"the host's own is no CA":       {list{own}, []Record{tlsa(2, 0, 1, own)}, []string{"elsewhere"}, "none of those"},
		"nothing shown":                 {nil, []Record{tlsa(3, 1, 1, own)}, nil, "no certificate"},
		"CA fails, the host's own fits": {list{old, between, root}, append(byRoot, tlsa(3, 1, 1, old)), nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			var chain []*x509.Certificate
			for _, one := range c.chain {
				chain = append(chain, one.Certificate)
			}
			again, err := Parse(Text(Usable(c.records)))
			require.NoError(t, err)
			if err = Verify(chain, again, c.names, now); c.want == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.want)
			}
		})
	}
}

func TestUsable(t *testing.T) {
	one := issue(t, nil, true, "one", nil, time.Now().Add(time.Hour))
	two := issue(t, nil, true, "two", nil, time.Now().Add(time.Hour))
	short := tlsa(3, 1, 1, one)
	short.Data = short.Data[1:]
	strong := tlsa(3, 1, 2, two)
	for name, c := range map[string]struct{ all, want []Record }{
		"PKIX":                 {[]Record{tlsa(0, 0, 1, one), tlsa(1, 1, 1, one)}, nil},
		"unknown usage":        {[]Record{tlsa(4, 0, 1, one), tlsa(255, 0, 1, one)}, nil},
		"unknown selector":     {[]Record{tlsa(3, 2, 1, one)}, nil},
		"unknown digest":       {[]Record{tlsa(3, 1, 3, one)}, nil},
		"a digest cut short":   {[]Record{short}, nil},
		"no certificate":       {[]Record{{3, 0, 0, []byte("x")}, {2, 1, 0, []byte("x")}, {3, 1, 0, nil}}, nil},
		"each once":            {[]Record{tlsa(3, 1, 1, one), tlsa(3, 1, 1, one)}, []Record{tlsa(3, 1, 1, one)}},
		"the stronger digest":  {[]Record{tlsa(3, 1, 1, one), strong}, []Record{strong}},
		"of one selector only": {[]Record{strong, tlsa(3, 0, 1, one)}, []Record{tlsa(3, 0, 1, one), strong}},
		"whole ones count":     {[]Record{strong, tlsa(3, 1, 0, one)}, []Record{tlsa(3, 1, 0, one), strong}},
	} {
		require.Equal(t, c.want, Usable(c.all), name)
	}
	require.True(t, Names([]Record{tlsa(3, 1, 1, one), tlsa(2, 1, 1, one)}))
	require.False(t, Names([]Record{tlsa(3, 1, 1, one)}))
	var many []Record
	for i := range 200 {
		r := tlsa(3, 1, 1, one)
		r.Data[0], r.Data[1] = byte(i), byte(i)
		many = append(many, r)
	}
	require.Len(t, Usable(many), maxRecords)
	for _, bad := range []string{"", "3 1 1", "3 1 x 00", "3 1 1 0", "3 1 256 00"} {
		_, err := Parse(bad)
		require.Error(t, err, bad)
	}
}
