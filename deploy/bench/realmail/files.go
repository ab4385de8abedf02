package realmail

import (
	"bytes"
	"compress/zlib"
	"fmt"
	"image"
	"image/color"
	"image/jpeg"
	"math"
	"mime/quotedprintable"
)

// newsletter writes rows of a table with styles, links that tell who clicks, and prose, in
// quoted-printable, until the message has size octets.
func (m *Maker) newsletter(b *bytes.Buffer, size int) {
	w := quotedprintable.NewWriter(b)
	put := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) }
	put("%s", htmlHead)
	for b.Len() < size-700 {
		link := fmt.Sprintf("https://click.news.example/ls/click?upn=%s&id=%s", m.token(80), m.token(20))
		put(htmlRow, link, m.token(12), m.rng.IntN(600), m.sentence(5), m.rng.IntN(0xffffff))
		for range 1 + m.rng.IntN(3) {
			put("%s. ", m.sentence(12))
		}
		put(htmlRowEnd, link, m.sentence(3))
	}
	put("</table></td></tr></table></body></html>\r\n")
	_ = w.Close()
}

const htmlHead = `<!DOCTYPE html PUBLIC "-//W3C//DTD XHTML 1.0 Transitional//EN"
 "http://www.w3.org/TR/xhtml1/DTD/xhtml1-transitional.dtd">
<html xmlns="http://www.w3.org/1999/xhtml"><head>
<meta http-equiv="Content-Type" content="text/html; charset=utf-8" />
<meta name="viewport" content="width=device-width, initial-scale=1.0" /><style type="text/css">
body{margin:0;padding:0;-webkit-text-size-adjust:100%} table{border-collapse:collapse} img{border:0;display:block}
@media only screen and (max-width:600px){.col{width:100%!important}.pad{padding:12px!important}}
</style></head><body bgcolor="#f4f4f4">
<table width="100%" cellpadding="0" cellspacing="0" border="0"><tr><td align="center">
<table class="col" width="600" cellpadding="0" cellspacing="0" border="0" style="background-color:#ffffff">
`

const htmlRow = `<tr><td class="pad" style="padding:24px 32px 8px 32px;font-family:Arial,Helvetica,sans-serif;
font-size:16px;line-height:24px;color:#333333"><a href="%s" target="_blank" style="color:#0b5ed7;
text-decoration:none"><img src="https://img.news.example/%s.png" width="%d" alt="" style="max-width:100%%" /></a>
<h2 style="margin:0 0 8px 0;font-size:20px;line-height:28px">%s</h2><p style="margin:0 0 16px 0;color:#%06x">`

const htmlRowEnd = `</p><a href="%s" target="_blank" style="display:inline-block;padding:10px 18px;
background-color:#0b5ed7;color:#ffffff;border-radius:4px;text-decoration:none">%s</a></td></tr>
`

// fileSize is at least how much attachments are cut from.
const fileSize = 200 << 10

// file makes a picture or a PDF.
func (m *Maker) file(kind Kind) []byte {
	var b bytes.Buffer
	for n := 1; b.Len() < fileSize; n++ {
		if kind == Picture {
			m.picture(&b)
		} else {
			m.page(&b, n)
		}
	}
	return b.Bytes()
}

// picture writes a JPEG: areas that fade, and the noise of a camera.
func (m *Maker) picture(b *bytes.Buffer) {
	const side = 480
	img := image.NewRGBA(image.Rect(0, 0, side, side))
	fx, fy := 1+m.rng.Float64()*20, 1+m.rng.Float64()*20
	for y := range side {
		for x := range side {
			v := 128 + 70*math.Sin(fx*float64(x)/side)*math.Cos(fy*float64(y)/side) + m.rng.NormFloat64()*12
			at := func(v float64) uint8 { return uint8(max(0, min(255, v))) }
			img.SetRGBA(x, y, color.RGBA{at(v), at(v * 0.8), at(255 - v), 255})
		}
	}
	_ = jpeg.Encode(b, img, &jpeg.Options{Quality: 85}) // a buffer takes all
}

// page writes an object of a PDF with the text of a page, as it is stored: deflated.
func (m *Maker) page(b *bytes.Buffer, n int) {
	var text, packed bytes.Buffer
	for y := 760; y > 60; y -= 12 {
		fmt.Fprintf(&text, "BT /F1 10 Tf 1 0 0 1 56 %d Tm (%s) Tj ET\n", y, m.sentence(11))
	}
	w := zlib.NewWriter(&packed)
	_, _ = w.Write(text.Bytes())
	_ = w.Close()
	fmt.Fprintf(b, "%d 0 obj\n<< /Length %d /Filter /FlateDecode >>\nstream\n", 2*n, packed.Len())
	b.Write(packed.Bytes())
	fmt.Fprintf(b, "\nendstream\nendobj\n%d 0 obj\n<< /Type /Page /Parent 1 0 R /MediaBox [0 0 595 842] "+
		"/Contents %d 0 R /Resources << /Font << /F1 3 0 R >> >> >>\nendobj\n", 2*n+1, 2*n)
}
