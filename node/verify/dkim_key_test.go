package verify

import (
	"context"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"math/big"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// oneKey is a Resolver that knows one text and nothing else.
type oneKey struct {
	Resolver
	text string
}

func (k oneKey) TXT(_ context.Context, name string) ([]string, error) {
	if name == "sel._domainkey.x.example" {
		return []string{k.text}, nil
	}
	return nil, ErrNotFound
}
func (oneKey) IPv4(context.Context, string) ([]netip.Addr, error)      { return nil, ErrNotFound }
func (oneKey) Addresses(context.Context, string) ([]netip.Addr, error) { return nil, ErrNotFound }
func (oneKey) Names(context.Context, netip.Addr) ([]string, error)     { return nil, ErrNotFound }
func (oneKey) Hosts(context.Context, string) ([]string, error)         { return nil, ErrNotFound }

// A key record of more than 4 KiB is permerror, though the signature is good.
func TestLongKeyRecordIsAPermError(t *testing.T) {
	message := sign(t, "x.example", crlf("From: a@x.example\nSubject: x\n\nbody\n"))
	for padding, want := range map[int]Outcome{1000: Pass, maxKeyText: PermError} {
		v := &Verifier{Resolver: oneKey{text: keyRecord() + "; n=" + strings.Repeat("x", padding)}, Timeout: 5 * time.Second}
		r := verifyAll(t, v, Client{Address: netip.MustParseAddr("192.0.2.1"), Sender: "a@x.example"}, message)
		require.Len(t, r.DKIM, 1)
		require.Equal(t, want, r.DKIM[0].Outcome, r.DKIM[0].Reason)
	}
}

func TestLargeKeysAreRefused(t *testing.T) {
	require.Equal(t, []int{8192, 4096}, []int{maxKeyBits, maxKeyText}, "bits of a key, octets of its record")
	record := func(bits uint, pkcs1 bool) string {
		n := new(big.Int).Lsh(big.NewInt(1), bits-1)
		key := &rsa.PublicKey{N: n.Add(n, big.NewInt(1)), E: 65537}
		der := x509.MarshalPKCS1PublicKey(key)
		if !pkcs1 {
			var err error
			der, err = x509.MarshalPKIXPublicKey(key)
			require.NoError(t, err)
		}
		return "v=DKIM1; k=rsa; p=" + base64.StdEncoding.EncodeToString(der)
	}
	for _, pkcs1 := range []bool{false, true} {
		require.NoError(t, boundKeys([]string{keyRecord(), record(2048, pkcs1), record(maxKeyBits, pkcs1)}))
		require.ErrorIs(t, boundKeys([]string{record(2048, pkcs1), record(maxKeyBits+1, pkcs1)}), errKey)
		require.ErrorIs(t, boundKeys([]string{strings.Replace(record(16384, pkcs1), "p=", " p = ", 1)}), errKey)
	}
	require.NoError(t, boundKeys([]string{"p=", "p=%%%", "nonsense", "v=DKIM1; p=AAAA"}))
}
