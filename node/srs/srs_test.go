package srs

import (
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var at = time.Date(2026, 12, 1, 12, 0, 0, 0, time.UTC)

func scheme() *Scheme {
	return &Scheme{Secret: []byte("a secret of thirty-two octets ..."), Domain: "fwd.example"}
}

func split(t *testing.T, address string) string {
	t.Helper()
	local, domain, ok := cut(address)
	require.True(t, ok)
	require.Equal(t, "fwd.example", domain)
	return local
}

// TestThereAndBack: also where a host on the way changes the case of letters.
func TestThereAndBack(t *testing.T) {
	s := scheme()
	for _, sender := range []string{"bob@far.example", "a=b=c@far.example", "bob+tag@xn--bcher-kva.example",
		"jörg@far.example",
		strings.Repeat("l", 60) + "@far.example"} {
		made := s.Forward(sender, at)
		require.Regexp(t, `^SRS0=[a-z2-7]{8}=[a-z2-7]{2}=`, made)
		require.True(t, Is(made))
		back, err := s.Reverse(split(t, made), at.Add(20*24*time.Hour))
		require.NoError(t, err, made)
		require.Equal(t, sender, back)
		for _, changed := range []string{strings.ToLower(made), strings.ToUpper(made[:30]) + made[30:]} {
			back, err = s.Reverse(split(t, changed), at)
			require.NoError(t, err, changed)
			require.True(t, strings.EqualFold(sender, back))
		}
	}
}

// TestChain: what other forwarders made leads to the first of them, however many were between.
func TestChain(t *testing.T) {
	s := scheme()
	first := "SRS0=HHH=TT=home.example=bob@one.example"
	two := s.Forward(first, at)
	require.Regexp(t, `^SRS1=[a-z2-7]{8}=one\.example==HHH=TT=home\.example=bob@fwd\.example$`, two)
	back, err := s.Reverse(split(t, two), at)
	require.NoError(t, err)
	require.Equal(t, first, back)

	three := s.Forward("SRS1=XXXX=one.example=-HHH=TT=home.example=bob@two.example", at)
	back, err = s.Reverse(split(t, three), at.Add(keyDays*24*time.Hour))
	require.NoError(t, err, "the key before counts")
	require.Equal(t, "SRS0-HHH=TT=home.example=bob@one.example", back, "two.example is left out")
	_, err = s.Reverse(split(t, three), at.Add(2*keyDays*24*time.Hour))
	require.ErrorIs(t, err, ErrForged)
}

// TestNobodyElseMakesThem: relaying for strangers is what a hash keeps from.
func TestNobodyElseMakesThem(t *testing.T) {
	s := scheme()
	made := split(t, s.Forward("bob@far.example", at))
	other := *s
	other.Generation++
	_, err := other.Reverse(made, at)
	require.ErrorIs(t, err, ErrForged, "the key was changed")
	for _, local := range []string{
		strings.Replace(made, "far.example", "victim.example", 1), strings.Replace(made, "=bob", "=eve", 1),
		"SRS0=" + made[6:], "SRS0=" + strings.Repeat("a", 8) + made[13:], made[:5] + made[14:],
		"SRS0==" + made[14:], "SRS0", "SRS0=", "SRS0====", "SRS0=a=b", "SRS1=", "SRS1===", "SRS1=aaaaaaaa=one.example==x",
		"bob",
		strings.Replace(split(t, s.Forward("kim@far.example", at)), "=kim", "=\u212aim", 1),
	} {
		_, err := s.Reverse(local, at)
		require.ErrorIs(t, err, ErrForged, local)
	}
	_, err = new(Scheme).Reverse(made, at)
	require.ErrorIs(t, err, ErrForged, "the cluster has no secret")
}

func TestExpiry(t *testing.T) {
	s, at := scheme(), at
	for range 1100 { // days, so that they wrap
		made := split(t, s.Forward("bob@far.example", at))
		for age, want := range map[int]error{-1: nil, 0: nil, validDays: nil, validDays + 1: ErrExpired, 500: ErrExpired} {
			_, err := s.Reverse(made, at.Add(time.Duration(age)*24*time.Hour))
			if want == nil {
				require.NoError(t, err, "after %d days", age)
			} else {
				require.ErrorIs(t, err, want, "after %d days", age)
			}
		}
		at = at.Add(24 * time.Hour)
	}
}

// TestWhatStays: senders without a form in SRS go as they came.
func TestWhatStays(t *testing.T) {
	s := scheme()
	for _, sender := range []string{
		"", "bob", "@far.example", `"a b"@far.example`, "a%b@far.example", "bob@[192.0.2.1]",
		strings.Repeat("l", 200) + "@" + strings.Repeat("d", 60) + ".example", "SRS1=x@far.example",
		"SRS1=x==y@far.example"} {
		require.Equal(t, sender, s.Forward(sender, at))
	}
	require.Equal(t, "bob@far.example", (&Scheme{Domain: "fwd.example"}).Forward("bob@far.example", at))
	require.False(t, Is("srs0@fwd.example"))
	require.False(t, Is("srs00=x@fwd.example"))
}
