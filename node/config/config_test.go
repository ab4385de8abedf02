package config

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/stretchr/testify/require"
	"net/netip"
)

func noEnv(string) (string, bool) { return "", false }

func env(pairs ...string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		for i := 0; i < len(pairs); i += 2 {
			if pairs[i] == name {
				return pairs[i+1], true
			}
		}
		return "", false
	}
}

var sameAddrs = cmp.Options{
	cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }),
	cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
	cmpopts.EquateEmpty(),
}

// The annotated default says the same as New, but for what a site must say itself.
func TestDefaultFile(t *testing.T) {
	got, problems := Parse([]byte(Default()), noEnv)
	require.Empty(t, problems)

	want := New()
	want.Node.ID, want.Node.Hostname = "n1", "mx1.example.com"
	want.Cluster.Advertise = "10.0.0.1:7170"
	want.TLS.Cert, want.TLS.Key = "/etc/relay/tls.crt", "/etc/relay/tls.key"
	mx, submission, implicit := NewSMTP(), NewSMTP(), NewSMTP()
	mx.Listen, submission.Listen, implicit.Listen = "0.0.0.0:25", "0.0.0.0:587", "0.0.0.0:465"
	submission.Role, implicit.Role, implicit.TLS = RoleSubmission, RoleSubmission, TLSImplicit
	want.SMTP = []SMTP{mx, submission, implicit}
	plain, implicit3 := NewPOP3(), NewPOP3()
	plain.Listen, implicit3.Listen, implicit3.TLS = "0.0.0.0:110", "0.0.0.0:995", TLSImplicit
	want.POP3 = []POP3{plain, implicit3}
	want.derive()
	require.Empty(t, cmp.Diff(want, got, sameAddrs))
}

// Every key of the struct stands in the annotated default, commented out or not.
func TestDefaultFileIsComplete(t *testing.T) {
	var walk func(t reflect.Type, path string) []string
	walk = func(typ reflect.Type, path string) (keys []string) {
		for i := range typ.NumField() {
			f := typ.Field(i)
			name := f.Tag.Get("toml")
			require.NotEmpty(t, name, f.Name)
			if name == "-" {
				continue
			}
			sub := f.Type
			if sub.Kind() == reflect.Slice {
				sub = sub.Elem()
			}
			if sub.Kind() == reflect.Struct && sub.PkgPath() == typ.PkgPath() {
				keys = append(keys, walk(sub, name)...)
				continue
			}
			keys = append(keys, path+"."+name)
		}
		return keys
	}
	table, seen := "", map[string]bool{}
	for _, line := range strings.Split(Default(), "\n") {
		line = strings.TrimPrefix(line, "# ")
		if strings.HasPrefix(line, "[") {
			table = strings.Trim(strings.Fields(line)[0], "[]")
		}
		if name, _, ok := strings.Cut(line, " = "); ok {
			seen[table+"."+name] = true
		}
	}
	for _, key := range walk(reflect.TypeFor[Config](), "") {
		require.True(t, seen[key], "default.toml does not mention %s", key)
	}
}

func TestMarshalReadsBack(t *testing.T) {
	want, problems := Parse([]byte(Default()), noEnv)
	require.Empty(t, problems)
	data, err := want.Marshal()
	require.NoError(t, err)
	got, problems := Parse(data, noEnv)
	require.Empty(t, problems)
	require.Empty(t, cmp.Diff(want, got, sameAddrs))
}

func TestEnvironment(t *testing.T) {
	c, problems := Parse([]byte(Default()), env(
		"RELAY_NODE_ID", "n7",
		"RELAY_NODE_HOSTNAME", "mx7.example.net",
		"RELAY_CLUSTER_ADVERTISE", "relay-7.relay:7170",
		"RELAY_CLUSTER_JOIN", "relay-0.relay:7170, relay-1.relay:7170",
		"RELAY_CLUSTER_JOIN_TOKEN_FILE", "/run/token",
		"RELAY_CLUSTER_PEERS", "n1=10.0.0.1:7170, n2=relay-2.relay:7170",
		"RELAY_RELAY_TRUSTED_NETWORKS", "10.1.0.0/16,::1",
		"RELAY_RELAY_MAX_MESSAGE_SIZE", "25MB",
		"RELAY_LIMITS_RECIPIENTS", "200",
		"RELAY_LIMITS_COMMAND_TIMEOUT", "90s",
		"RELAY_LOG_LEVEL", "debug",
		"RELAY_ADMIN_TOKEN", "s3cret",
		"RELAY_ADMIN_TOKEN_FILE", "",
	))
	require.Empty(t, problems)
	require.Equal(t, "n7", c.Node.ID)
	require.Equal(t, "mx7.example.net", c.Node.Hostname)
	require.Equal(t, "mx7.example.net", c.Delivery.Helo)
	require.Equal(t, []string{"relay-0.relay:7170", "relay-1.relay:7170"}, c.Cluster.Join)
	require.Equal(t, map[string]string{"n1": "10.0.0.1:7170", "n2": "relay-2.relay:7170"}, c.Cluster.PeerAddresses())
	require.Equal(t, "[10.1.0.0/16 ::1/128]", fmt.Sprint(c.Relay.TrustedNetworks))
	require.Equal(t, 25*MB, c.Relay.MaxMessageSize)
	require.Equal(t, 200, c.Limits.Recipients)
	require.Equal(t, 90*time.Second, c.Limits.CommandTimeout.D())
	require.Equal(t, "s3cret", c.Admin.Token)
}

func TestEnvironmentMistakes(t *testing.T) {
	_, problems := Parse([]byte(Default()), env(
		"RELAY_LIMITS_RECIPIENTS", "many",
		"RELAY_LOG_LEVEL", "inf",
		"RELAY_SMTP", "x",
	))
	var text []string
	for _, p := range problems {
		text = append(text, p.String())
	}
	require.ElementsMatch(t, []string{
		`limits.recipients: "many" is not a whole number (set by RELAY_LIMITS_RECIPIENTS)`,
		`log.level: "inf" is not one of debug, info, warn, error; did you mean info? (set by RELAY_LOG_LEVEL)`,
	}, text)
}

// Each file in testdata/broken has its messages beside it.
func TestBroken(t *testing.T) {
	files, err := filepath.Glob("testdata/broken/*.toml")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".toml"), func(t *testing.T) {
			problems := Check(file)
			require.NotEmpty(t, problems)
			var got strings.Builder
			for _, p := range problems {
				fmt.Fprintln(&got, p)
			}
			golden(t, strings.TrimSuffix(file, ".toml")+".txt", got.String())
		})
	}
}

var update = flag.Bool("update", false, "rewrite the golden files")

func golden(t *testing.T, file, got string) {
	t.Helper()
	if *update {
		require.NoError(t, os.WriteFile(file, []byte(got), 0o644))
	}
	want, err := os.ReadFile(file)
	require.NoError(t, err)
	require.Empty(t, cmp.Diff(string(want), got))
}

func TestLoad(t *testing.T) {
	dir := t.TempDir()
	_, err := Load(filepath.Join(dir, "none.toml"))
	require.ErrorContains(t, err, "relayd config default")

	file := filepath.Join(dir, "relay.toml")
	require.NoError(t, os.WriteFile(file, []byte("[node]\nid='n1'\nhostnam='x'\ndatadir=1\n"), 0o600))
	_, err = Load(file)
	var invalid *Invalid
	require.ErrorAs(t, err, &invalid)
	require.Equal(t, file+", line 3: node.hostnam: unknown key; did you mean hostname?",
		(&Invalid{file, invalid.Problems[1:2]}).Error())
	require.ErrorContains(t, err, "more mistakes")

	token := filepath.Join(dir, "token")
	require.NoError(t, os.WriteFile(token, []byte("x\n"), 0o600))
	text := fmt.Sprintf("[node]\nid='n1'\nhostname='h'\ndata_dir=%q\n[cluster]\nlisten='127.0.0.1:0'\n[admin]\n"+
		"token_file=%q\n[[smtp]]\nlisten='127.0.0.1:0'\ntls='none'\n", dir, token)
	require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
	c, err := Load(file)
	require.NoError(t, err)
	require.Equal(t, "127.0.0.1:0", c.Cluster.Advertise)
	require.Equal(t, "http://127.0.0.1:7180", c.Admin.URL)
	require.Equal(t, RoleMX, c.SMTP[0].Role)
}

func TestProblemsOfAProgram(t *testing.T) {
	c := New()
	require.Len(t, c.Problems(), 2) // node.id, cluster.advertise
	c.Node.ID, c.Cluster.Listen = "n1", "127.0.0.1:12170"
	require.Empty(t, c.Problems())
}

func TestUnits(t *testing.T) {
	for text, want := range map[string]Size{
		"0": 0, "1": 1, "10B": 10, "50MB": 50 * MB, "50 mb": 50 * MB, "1GiB": GB, "1.5GB": 3 * GB / 2, "2TB": 2 * TB,
	} {
		got, err := ParseSize(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got, text)
	}
	for _, text := range []string{"", "MB", "-1MB", "50XB", "1e300GB", "NaN"} {
		_, err := ParseSize(text)
		require.Error(t, err, text)
	}
	for text, want := range map[string]time.Duration{
		"0": 0, "5m": 5 * time.Minute, "2d": 48 * time.Hour, "1d12h": 36 * time.Hour, "1h30m": 90 * time.Minute,
		"250ms": 250 * time.Millisecond,
	} {
		got, err := ParseDuration(text)
		require.NoError(t, err, text)
		require.Equal(t, want, got.D(), text)
	}
	for _, text := range []string{"", "5", "-5m", "d", "5x", "1.5d"} {
		_, err := ParseDuration(text)
		require.Error(t, err, text)
	}
	require.Equal(t, "5m 1h 1h30m 2d 1d12h 90ms 0s 1m30s",
		fmt.Sprint(Duration(5*time.Minute), Duration(time.Hour), Duration(90*time.Minute), Duration(48*time.Hour),
			Duration(36*time.Hour), Duration(90*time.Millisecond), Duration(0), Duration(90*time.Second)))
}

func FuzzSize(f *testing.F) {
	for _, s := range []string{"50MB", "1.5GiB", "0", "7B"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		n, err := ParseSize(text)
		if err != nil {
			return
		}
		again, err := ParseSize(n.String())
		require.NoError(t, err)
		require.Equal(t, n, again)
	})
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"5m", "2d12h", "1.5s", "250ms"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		d, err := ParseDuration(text)
		if err != nil {
			return
		}
		again, err := ParseDuration(d.String())
		require.NoError(t, err)
		require.Equal(t, d, again)
	})
}

// Parse answers for any bytes; a file that it takes without a problem, it takes again
// from Marshal.
func FuzzParse(f *testing.F) {
	f.Add([]byte(Default()))
	files, _ := filepath.Glob("testdata/broken/*.toml")
	for _, file := range files {
		if data, err := os.ReadFile(file); err == nil {
			f.Add(data)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, problems := Parse(data, noEnv)
		if len(problems) > 0 {
			return
		}
		out, err := c.Marshal()
		require.NoError(t, err)
		_, problems = Parse(out, noEnv)
		require.Empty(t, problems)
	})
}
