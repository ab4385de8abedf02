package disk

import (
	"bytes"
	"io"
	"testing"

	"github.com/cespare/xxhash/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/stretchr/testify/require"
	"pgregory.net/rapid"
)

func TestStreamRoundTrip(t *testing.T) {
	rapid.Check(t, func(r *rapid.T) {
		from, to := vfs.NewMem(), vfs.NewMem()
		require.NoError(r, from.MkdirAll("d", 0o700))
		require.NoError(r, to.MkdirAll("d", 0o700))
		sizes := rapid.SliceOfN(rapid.SampledFrom([]int{
			0, 1, 100, maxPayload - 1, maxPayload, maxPayload + 1, 2 * maxPayload,
		}), 0, 5).
			Draw(r, "sizes")
		var files []file
		for i, n := range sizes {
			name := "000" + string(rune('a'+i)) + ".sst"
			f, err := from.Create("d/"+name, vfs.WriteCategoryUnspecified)
			require.NoError(r, err)
			_, err = f.Write(bodyOf(name, n))
			require.NoError(r, err)
			require.NoError(r, f.Close())
			files = append(files, file{name, int64(n)})
		}
		m := meta{index: 7, term: 3, configIndex: 2}
		p := newPacker(from, "d", m.encode(nil), files)
		b, err := io.ReadAll(p)
		require.NoError(r, err)
		require.EqualValues(r, packedSize(m.encode(nil), files), len(b))
		got, err := unpack(bytes.NewReader(b), to, "d")
		require.NoError(r, err)
		require.True(r, m.same(got))
		names, err := to.List("d")
		require.NoError(r, err)
		require.Len(r, names, len(files))
		for _, f := range files {
			in, err := to.Open("d/" + f.name)
			require.NoError(r, err)
			have, err := io.ReadAll(in)
			require.NoError(r, err)
			require.NoError(r, in.Close())
			require.True(r, bytes.Equal(bodyOf(f.name, int(f.size)), have))
		}
	})
}

func TestFileNames(t *testing.T) {
	for _, good := range []string{
		"000123.sst", "MANIFEST-000001", "OPTIONS-000003", "marker.manifest.000001.MANIFEST-000001",
	} {
		require.True(t, fileName(good), good)
	}
	for _, bad := range []string{"", ".", "..", "../x", "a/b", `a\b`, ".hidden", "a b", "a\x00", "é", string(make([]byte, 200))} {
		require.False(t, fileName(bad), bad)
	}
}

// build makes a stream of frames with right checksums, so that fuzzing gets
// past them.
func build(frames ...[]byte) []byte {
	p := &packer{sum: xxhash.New()}
	p.buf = append(p.buf, magic...)
	for _, f := range frames {
		from := len(p.buf)
		p.begin(f[0])
		p.buf = append(p.buf, f[1:]...)
		p.finish(from)
	}
	return p.buf
}

func FuzzUnpack(f *testing.F) {
	m := meta{index: 7, term: 3}.encode([]byte{frameMeta})
	f.Add(m, []byte("\x02\x00\x00\x00\x00\x00\x00\x00\x03a.sst"), []byte("\x03abc"),
		[]byte("\x04\x00\x00\x00\x01\x00\x00\x00\x00\x00\x00\x00\x03"))
	f.Add(m, []byte("\x02\x00\x00\x00\x00\x00\x00\x00\x00../x"),
		[]byte("\x02\xff\xff\xff\xff\xff\xff\xff\xffa"), []byte("\x04"))
	f.Add([]byte("\x01"), []byte("\x03"), []byte("\x09"), []byte("\x04\x00"))
	f.Fuzz(func(t *testing.T, a, b, c, d []byte) {
		if len(a) == 0 || len(b) == 0 || len(c) == 0 || len(d) == 0 {
			return
		}
		fs := vfs.NewMem()
		require.NoError(t, fs.MkdirAll("in/d", 0o700))
		s := build(a, b, c, d)
		_, err := unpack(bytes.NewReader(s), fs, "in/d")
		names, lerr := fs.List("in")
		require.NoError(t, lerr)
		require.Equal(t, []string{"d"}, names, "nothing is written elsewhere")
		if err == nil {
			_, err = unpack(bytes.NewReader(s[:len(s)-1]), vfs.NewMem(), "")
			require.Error(t, err)
		}
		_, _ = unpack(bytes.NewReader(append([]byte(magic), a...)), fs, "in/d")
	})
}

func FuzzCurrent(f *testing.F) {
	f.Add(formatCurrent("db-0000000000000001"))
	f.Add([]byte("db-1 00000000\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		name, err := parseCurrent(b)
		if err == nil {
			again, err := parseCurrent(formatCurrent(name))
			require.NoError(t, err)
			require.Equal(t, name, again)
		}
	})
}

func FuzzMeta(f *testing.F) {
	f.Add(meta{index: 7, term: 3, configIndex: 2, config: configOf(1, "a", "b").Data}.encode(nil))
	f.Add(make([]byte, 25))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := decodeMeta(b)
		if err == nil {
			again, err := decodeMeta(m.encode(nil))
			require.NoError(t, err)
			require.True(t, m.same(again))
		}
	})
}
