package smtp

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"relay/smtp/mailaddr"
)

func FuzzParams(f *testing.F) {
	for _, s := range []string{
		" SIZE=1 BODY=8BITMIME", " RET=FULL ENVID=a+2B", " BY=1;RT", " HOLDFOR=1", " NOTIFY=NEVER ORCPT=rfc822;a",
		" MT-PRIORITY=-9",
	} {
		f.Add(s)
	}
	known := mailParams()
	f.Fuzz(func(t *testing.T, in string) {
		if hasControl([]byte(in)) {
			return // refused before
		}
		now := time.Unix(1e9, 0)
		if o, err := parseMailParams([]byte(in), known, ^Extension(0), now); err == nil {
			require.False(t, hasControl([]byte(o.EnvID+o.Auth)))
		}
		if o, err := parseRcptParams([]byte(in), ^Extension(0)); err == nil {
			require.False(t, hasControl([]byte(o.ORCPT)))
			if o.ORCPT != "" {
				var again RcptOptions
				require.True(t, setORCPT(&again, mailaddr.EncodeORCPT(o.ORCPT)) || len(in) > 100, "%q", o.ORCPT)
			}
		}
	})
}

func TestORCPTRoundTrip(t *testing.T) {
	for in, wire := range map[string]string{
		"rfc822;a+b=c@d":   "rfc822;a+2Bb+3Dc@d",
		"utf-8;jürgen@d":   `utf-8;j\x{FC}rgen@d`,
		`utf-8;a+b\@d`:     `utf-8;a\x{2B}b\x{5C}@d`,
		"utf-8;用户@例子.test": `utf-8;\x{7528}\x{6237}@\x{4F8B}\x{5B50}.test`,
	} {
		require.Equal(t, wire, mailaddr.EncodeORCPT(in))
		var o RcptOptions
		require.True(t, setORCPT(&o, wire))
		require.Equal(t, in, o.ORCPT)
	}
}
