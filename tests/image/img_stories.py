"""The command lines of test_img_text.py: all of qemu-img's options, and wrong uses.

FMT is the format. Stories are parted by empty lines; each begins in an empty folder.
"""

# Formats that can be made, and what creating them needs.
SECRET = "--object secret,id=s,data=sesame"
FORMATS = ("raw", "qcow2", "qcow", "qed", "vmdk", "vdi", "vpc", "vhdx", "parallels")

EVERY_FORMAT = """
qemu-img create -f FMT t.img 64M
qemu-img info t.img
qemu-img info -f FMT t.img
qemu-img info --output=json -f FMT t.img
qemu-img info --backing-chain -f FMT t.img
qemu-img info --backing-chain --output=json -f FMT t.img
qemu-img check -f FMT t.img
qemu-img check --output=json -f FMT t.img
qemu-img check -q -f FMT t.img
qemu-img check -r leaks -f FMT t.img
qemu-img check -r all -f FMT t.img
qemu-img check -r foo -f FMT t.img
qemu-img map -f FMT t.img
qemu-img map --output=json -f FMT t.img
qemu-img map --output=json -s 1M -l 2M -f FMT t.img
qemu-img map --start-offset=1M --max-length=512 -f FMT t.img
qemu-img map --start-offset=64M -f FMT t.img
qemu-img map --start-offset=65M --output=json -f FMT t.img
qemu-img map --start-offset=-1 -f FMT t.img
qemu-img map --max-length=x -f FMT t.img
qemu-img measure -f FMT t.img
qemu-img measure -O FMT -f FMT t.img
qemu-img measure -O FMT --size 1G
qemu-img measure -O FMT --output=json --size 1G
qemu-img snapshot -l t.img
qemu-img snapshot -c one t.img
qemu-img snapshot -a one --image-opts driver=FMT,file.filename=t.img
qemu-img snapshot -d one t.img
qemu-img amend -f FMT -o help t.img
qemu-img amend -f FMT -o foo=bar t.img
qemu-img amend -f FMT -o size=128M t.img
qemu-img amend -f FMT -o help
qemu-img bitmap --add -f FMT t.img b
qemu-img bitmap --remove -f FMT t.img b
qemu-img rebase -u -b none -F raw -f FMT t.img
qemu-img rebase -u -b '' -f FMT t.img
qemu-img rebase -b '' -f FMT t.img
qemu-img rebase -b none -F raw -f FMT t.img
qemu-img commit -f FMT t.img
qemu-img commit -f FMT -b none t.img
qemu-img compare -f FMT -F FMT t.img t.img
qemu-img compare -s -f FMT -F FMT t.img t.img
qemu-img dd -f FMT -O FMT if=t.img of=d.img bs=1M count=1

qemu-img create -f FMT t.img 64M
qemu-img resize -f FMT t.img 128M
qemu-img resize -f FMT t.img +1M
qemu-img resize -f FMT t.img -1M
qemu-img resize -f FMT --shrink t.img -1M
qemu-img resize -f FMT --shrink t.img 32M
qemu-img resize -f FMT t.img 32M
qemu-img resize -f FMT t.img 0
qemu-img resize -f FMT --shrink t.img 0
qemu-img resize -f FMT --shrink t.img -200M
qemu-img resize -f FMT t.img foo
qemu-img resize -f FMT t.img +foo
qemu-img resize -f FMT t.img 1025
qemu-img resize -f FMT --shrink t.img 1025
qemu-img resize -f FMT --preallocation=off t.img 40M
qemu-img resize -f FMT --preallocation=metadata t.img 41M
qemu-img resize -f FMT --preallocation=falloc t.img 42M
qemu-img resize -f FMT --preallocation=full t.img 43M
qemu-img resize -f FMT --preallocation=foo t.img 44M
qemu-img resize -f FMT --preallocation=full t.img 44M
qemu-img resize -f FMT --preallocation=full --shrink t.img 1M
qemu-img resize -f FMT t.img 9E
qemu-img resize -f FMT t.img 7E
qemu-img resize -f FMT t.img 4096T
qemu-img resize -f FMT -q t.img 5000T
qemu-img info -f FMT t.img

qemu-img create -f FMT -o help
qemu-img create -f FMT -o help t.img
qemu-img create -f FMT -o help t.img 1M
qemu-img create -f FMT -o '?' t.img 1M
qemu-img create -f FMT -o foo=bar t.img 1M
qemu-img create -f FMT -o foo t.img 1M
qemu-img create -f FMT -o size=1M t.img
qemu-img create -f FMT -o size=1M t.img 2M
qemu-img create -f FMT -o size=foo t.img
qemu-img create -f FMT -o size=-1 t.img
qemu-img create -f FMT -o size= t.img
qemu-img create -f FMT -o size t.img
qemu-img create -f FMT -o nocow=on t.img 1M
qemu-img create -f FMT -o nocow=foo t.img 1M
qemu-img create -f FMT -o preallocation=off t.img 1M
qemu-img create -f FMT -o preallocation=metadata t.img 1M
qemu-img create -f FMT -o preallocation=falloc t.img 1M
qemu-img create -f FMT -o preallocation=full t.img 1M
qemu-img create -f FMT -o preallocation=foo t.img 1M
qemu-img create -f FMT -o preallocation= t.img 1M
qemu-img create -f FMT -o extent_size_hint=foo t.img 1M
qemu-img create -f FMT -o ,size=1M t.img
qemu-img create -f FMT -o size=1M, t.img
qemu-img create -f FMT -o size=1M,, t.img
qemu-img create -f FMT -o '' t.img 1M
qemu-img create -f FMT -o , t.img 1M
qemu-img create -f FMT t.img
qemu-img create -f FMT
qemu-img create -f FMT t.img 0
qemu-img create -f FMT t.img 1
qemu-img create -f FMT t.img 511
qemu-img create -f FMT t.img 513
qemu-img create -f FMT t.img 1000
qemu-img create -f FMT t.img 1.5M
qemu-img create -f FMT t.img 1.5
qemu-img create -f FMT t.img 1k
qemu-img create -f FMT t.img 1K
qemu-img create -f FMT t.img 1b
qemu-img create -f FMT t.img 1B
qemu-img create -f FMT t.img 1G
qemu-img create -f FMT t.img 1T
qemu-img create -f FMT t.img 2T
qemu-img create -f FMT t.img 3T
qemu-img create -f FMT t.img 64T
qemu-img create -f FMT t.img 8E
qemu-img create -f FMT t.img 9223372036854775808
qemu-img create -f FMT t.img 18446744073709551615
qemu-img create -f FMT t.img 18446744073709551616
qemu-img create -f FMT t.img -1
qemu-img create -f FMT t.img -1024
qemu-img create -f FMT t.img -1k
qemu-img create -f FMT -- t.img -1
qemu-img create -f FMT -- t.img -1024
qemu-img create -f FMT -- t.img -1k
qemu-img create -f FMT t.img foo
qemu-img create -f FMT t.img 1kilobyte
qemu-img create -f FMT t.img 1Z
qemu-img create -f FMT t.img 0x400
qemu-img create -f FMT t.img 0x1M
qemu-img create -f FMT t.img ' 1M'
qemu-img create -f FMT t.img '1M '
qemu-img create -f FMT t.img +1M
qemu-img create -f FMT t.img .5M
qemu-img create -f FMT t.img 1e3
qemu-img create -f FMT t.img ''
qemu-img create -f FMT t.img 1M 2M
qemu-img create -f FMT t.img 1M t.img
qemu-img create -f FMT -q t.img 1M
qemu-img create -f FMT nodir/t.img 1M
qemu-img create -f FMT / 1M
qemu-img create -f FMT foo:bar 1M
qemu-img create -f FMT ./foo:bar 1M
qemu-img create -f FMT file:baz 1M
qemu-img create -f FMT file:foo:baz 1M
qemu-img create -f FMT 'json:{"driver":"file","filename":"x"}' 1M
ls

qemu-img create -f raw base.img 8M
qemu-img create -f FMT -b base.img t.img
qemu-img create -f FMT -b base.img -F raw t.img
qemu-img create -f FMT -b base.img -F qcow2 t.img
qemu-img create -f FMT -b base.img -F foo t.img
qemu-img create -f FMT -b none.img t.img
qemu-img create -f FMT -b none.img -F raw t.img
qemu-img create -f FMT -b none.img -F raw t.img 1M
qemu-img create -f FMT -b none.img t.img 1M
qemu-img create -f FMT -u -b none.img -F raw t.img 1M
qemu-img create -f FMT -u -b none.img -F raw t.img
qemu-img create -f FMT -u -b none.img t.img 1M
qemu-img create -f FMT -u -b none.img -F foo t.img 1M
qemu-img create -f FMT -b t.img -F FMT t.img 1M
qemu-img create -f FMT -b t.img t.img 1M
qemu-img create -f FMT -b t.img -F FMT t.img
qemu-img create -f FMT -b '' t.img 1M
qemu-img create -f FMT -b '' t.img
qemu-img create -f FMT -b '' -F raw t.img 1M
qemu-img create -f FMT -F raw t.img 1M
qemu-img create -f FMT -F foo t.img 1M
qemu-img create -f FMT -o backing_file=base.img t.img
qemu-img create -f FMT -o backing_file=base.img,backing_fmt=raw t.img
qemu-img create -f FMT -o backing_file=base.img,backing_fmt=raw t.img 4M
qemu-img create -f FMT -o backing_file=base.img,backing_fmt=foo t.img 4M
qemu-img create -f FMT -o backing_file=base.img -F raw t.img 16M
qemu-img create -f FMT -o backing_fmt=raw -b base.img t.img 16M
qemu-img create -f FMT -o backing_fmt=raw t.img 16M
qemu-img create -f FMT -o backing_file= t.img 16M
qemu-img create -f FMT -o backing_file t.img 16M
qemu-img create -f FMT -b file:base.img -F raw t.img
qemu-img create -f FMT -b json:foo -F raw t.img
qemu-img create -f FMT -b 'json:{"driver":"raw","file":{"driver":"file","filename":"base.img"}}' t.img
qemu-img create -f FMT -b 'json:{"driver":"raw","file":{"driver":"file","filename":"base.img"}}' -F raw t.img
qemu-img info -f FMT t.img
qemu-img create -f FMT -b foo:bar -F raw t.img
qemu-img create -f FMT -b foo:bar -F raw t.img 1M
qemu-img create -f FMT -u -b foo:bar -F raw t.img 1M
qemu-img info -f FMT t.img

@io FMT t.img 4M 'write -P 1 0 64k' 'write -P 2 1M 64k' 'write -z 2M 64k'
qemu-img convert -f FMT -O raw t.img o.raw
qemu-img convert -f FMT -O FMT t.img o.img
qemu-img convert -p -q -f FMT -O FMT t.img o.img
qemu-img compare -f FMT -F raw t.img o.raw
qemu-img compare -s -f FMT -F raw t.img o.raw
qemu-img compare -f FMT -F FMT t.img o.img
qemu-img map -f FMT --output=json o.img
qemu-img map -f FMT --output=json t.img
qemu-img map -f FMT t.img
qemu-img convert -n -f FMT -O FMT t.img o.img
qemu-img convert -n -f FMT -O FMT t.img none.img
qemu-img create -f FMT small.img 1M
qemu-img convert -n -f FMT -O FMT t.img small.img
qemu-img convert -S 0 -f FMT -O FMT t.img s.img
qemu-img compare -f FMT -F FMT t.img s.img
qemu-img convert -S 64k -f FMT -O FMT t.img s.img
qemu-img map -f FMT --output=json s.img
qemu-img convert -S 4k -f FMT -O FMT t.img s.img
qemu-img convert -S 1 -f FMT -O FMT t.img s.img
qemu-img convert -S 513 -f FMT -O FMT t.img s.img
qemu-img convert -S foo -f FMT -O FMT t.img s.img
qemu-img convert -S -1 -f FMT -O FMT t.img s.img
qemu-img convert -S 4G -f FMT -O FMT t.img s.img
qemu-img convert -m 0 -f FMT -O FMT t.img s.img
qemu-img convert -m 17 -f FMT -O FMT t.img s.img
qemu-img convert -m x -f FMT -O FMT t.img s.img
qemu-img convert -m 4 -W -f FMT -O FMT t.img s.img
qemu-img convert -C -f FMT -O FMT t.img s.img
qemu-img convert -C -S 4k -f FMT -O FMT t.img s.img
qemu-img convert -C -c -f FMT -O FMT t.img s.img
qemu-img convert -l one -f FMT -O FMT t.img s.img
qemu-img convert -l snapshot.name=one -f FMT -O FMT t.img s.img
qemu-img convert -l snapshot.foo=one -f FMT -O FMT t.img s.img
qemu-img convert -r 1G -f FMT -O FMT t.img s.img
qemu-img convert -r foo -f FMT -O FMT t.img s.img
qemu-img convert --salvage -f FMT -O FMT t.img s.img
qemu-img convert --salvage -C -f FMT -O FMT t.img s.img
qemu-img convert --target-is-zero -f FMT -O FMT t.img s.img
qemu-img convert --target-is-zero -n -f FMT -O FMT t.img s.img
qemu-img convert --target-image-opts -f FMT t.img driver=FMT,file.filename=s.img
qemu-img convert --target-image-opts -n -f FMT t.img driver=FMT,file.filename=s.img
qemu-img convert --target-image-opts -n -O FMT -f FMT t.img driver=FMT,file.filename=s.img
qemu-img convert --bitmaps -f FMT -O FMT t.img s.img
qemu-img convert --skip-broken-bitmaps -f FMT -O FMT t.img s.img
qemu-img convert -B none.img -f FMT -O FMT t.img s.img
qemu-img convert -B none.img -F raw -f FMT -O FMT t.img s.img
qemu-img convert -o backing_file=none.img -f FMT -O FMT t.img s.img
qemu-img convert -o backing_file=none.img,backing_fmt=raw -f FMT -O FMT t.img s.img
qemu-img convert -B o.img -f FMT -O FMT t.img s.img
qemu-img convert -B o.img -F FMT -f FMT -O FMT t.img s.img
qemu-img convert -B o.raw -F raw -f FMT -O FMT t.img s.img
qemu-img convert -B o.raw -n -F raw -f FMT -O FMT t.img s.img
qemu-img convert -F raw -f FMT -O FMT t.img s.img
qemu-img convert -f FMT -O FMT t.img t.img s2.img
qemu-img info -f FMT s2.img
qemu-img convert -f FMT -O FMT t.img t.img
qemu-img convert -f FMT -O FMT t.img nodir/s.img
qemu-img convert -f FMT -O FMT none.img s.img
qemu-img convert -f FMT -O FMT -o help
qemu-img convert -f FMT -O FMT -o help t.img
qemu-img convert -f FMT -O FMT -o help t.img s.img
qemu-img convert -f FMT -O FMT -o foo=bar t.img s.img
qemu-img convert -f FMT -O FMT -o size=8M t.img s.img
qemu-img convert -f FMT -O FMT -o size=1M t.img s.img
qemu-img convert -n -f FMT -O FMT -o size=1M t.img s.img
qemu-img convert -f FMT -O FMT -t none t.img s.img
qemu-img convert -f FMT -O FMT -t foo t.img s.img
qemu-img convert -f FMT -O FMT -T foo t.img s.img
qemu-img convert -f FMT -O FMT -T writethrough -t directsync t.img s.img
qemu-img convert -c -f FMT -O FMT -o preallocation=full t.img s.img
qemu-img convert -f FMT -O FMT -o preallocation=metadata t.img s.img
qemu-img convert -f FMT -O FMT -o preallocation=foo t.img s.img
qemu-img dd if=t.img of=o.img -f FMT -O FMT
qemu-img dd if=t.img of=o.img bs=64k -f FMT -O FMT
qemu-img compare -f FMT -F FMT t.img o.img
qemu-img dd if=t.img of=o.img bs=64k count=3 -f FMT -O FMT
qemu-img info -f FMT o.img
qemu-img dd if=t.img of=o.img bs=64k skip=1 -f FMT -O FMT
qemu-img dd if=t.img of=o.img bs=1M skip=3 count=9 -f FMT -O FMT
qemu-img dd if=t.img of=o.img bs=1M skip=4 -f FMT -O FMT
qemu-img dd if=t.img of=o.img bs=1M skip=5 count=1 -f FMT -O FMT
qemu-img dd if=t.img of=o.img bs=1000 count=7 -f FMT -O FMT
qemu-img info -f FMT o.img
qemu-img dd if=t.img of=o.img isize=5 -f FMT -O FMT
qemu-img dd if=none.img of=o.img -f FMT -O FMT
qemu-img dd if=t.img of=nodir/o.img -f FMT -O FMT
qemu-img measure -f FMT -O qcow2 t.img
qemu-img measure -f FMT -O raw t.img
qemu-img measure -f FMT -O FMT -o foo=bar t.img
qemu-img measure -f FMT -O FMT -l one t.img

@io FMT t.img 4M 'write -P 1 0 64k'
@io raw base.raw 4M 'write -P 3 64k 64k'
qemu-img rebase -f FMT -b base.raw -F raw t.img
qemu-img rebase -f FMT -u -b base.raw -F raw t.img
qemu-img info -f FMT t.img
qemu-img rebase -f FMT -u -b base.raw t.img
qemu-img rebase -f FMT -b base.raw t.img
qemu-img rebase -f FMT -u -b base.raw -F foo t.img
qemu-img rebase -f FMT -b base.raw -F foo t.img
qemu-img rebase -f FMT -b none.raw -F raw t.img
qemu-img rebase -f FMT t.img
qemu-img rebase -f FMT -u t.img

@io FMT t.img 4M 'write -P 1 0 64k'
qemu-img info --image-opts driver=FMT,file.filename=t.img
qemu-img info --image-opts driver=FMT,file.driver=file,file.filename=t.img
qemu-img info --image-opts driver=FMT,file.driver=foo,file.filename=t.img
qemu-img info --image-opts driver=FMT,foo=bar,file.filename=t.img
qemu-img info --image-opts driver=FMT,file.foo=bar,file.filename=t.img
qemu-img info --image-opts driver=FMT
qemu-img info --image-opts driver=FMT,file=t.img
qemu-img info --image-opts driver=FMT,file.filename=none.img
qemu-img info --image-opts file.filename=t.img
qemu-img info --image-opts filename=t.img
qemu-img info --image-opts t.img
qemu-img info --image-opts -f FMT driver=FMT,file.filename=t.img
qemu-img info 'json:{"driver":"FMT","file":{"driver":"file","filename":"t.img"}}'
qemu-img info --output=json 'json:{"driver":"FMT","file":{"driver":"file","filename":"t.img"}}'
qemu-img info 'json:{"driver":"FMT","file.filename":"t.img"}'
qemu-img info 'json:{"driver":"FMT","file":{"filename":"t.img"}}'
qemu-img info 'json:{"file.filename":"t.img"}'
qemu-img info 'json:{"driver":"FMT","file":"t.img"}'
qemu-img info -f FMT 'json:{"driver":"FMT","file.filename":"t.img"}'
qemu-img info 'json:{"driver":"foo","file.filename":"t.img"}'
qemu-img info 'json:{}'
qemu-img info 'json:{'
qemu-img info 'json:[]'
qemu-img info 'json:foo'
qemu-img info json:
qemu-img map --image-opts driver=FMT,file.filename=t.img
qemu-img map --output=json --image-opts driver=FMT,file.filename=t.img
qemu-img check --image-opts driver=FMT,file.filename=t.img
qemu-img compare --image-opts driver=FMT,file.filename=t.img driver=FMT,file.filename=t.img
qemu-img convert --image-opts -O raw driver=FMT,file.filename=t.img o.raw
qemu-img resize --image-opts driver=FMT,file.filename=t.img 8M
qemu-img snapshot --image-opts -l driver=FMT,file.filename=t.img
qemu-img amend --image-opts -o foo=bar driver=FMT,file.filename=t.img
qemu-img rebase --image-opts -u -b '' driver=FMT,file.filename=t.img
qemu-img commit --image-opts driver=FMT,file.filename=t.img
qemu-img dd --image-opts if=driver=FMT,file.filename=t.img of=o.raw bs=64k
qemu-img bench --image-opts -c 1 driver=FMT,file.filename=t.img
qemu-img measure --image-opts driver=FMT,file.filename=t.img
qemu-img bitmap --image-opts --add driver=FMT,file.filename=t.img b

@io FMT t.img 4M 'write -P 1 0 64k'
qemu-img bench -f FMT -c 10 t.img
qemu-img bench -f FMT -c 10 -w t.img
qemu-img bench -f FMT -c 10 -w --pattern=5 t.img
qemu-img bench -f FMT -c 10 -w --pattern=256 t.img
qemu-img bench -f FMT -c 10 -w --pattern=foo t.img
qemu-img bench -f FMT -c 10 -w --flush-interval=2 t.img
qemu-img bench -f FMT -c 10 --flush-interval=2 t.img
qemu-img bench -f FMT -c 10 -w --flush-interval=foo t.img
qemu-img bench -f FMT -c 10 -w --flush-interval=2 -d 3 t.img
qemu-img bench -f FMT -c 10 -w --flush-interval=4 -d 2 --no-drain t.img
qemu-img bench -f FMT -c 10 -w --no-drain t.img
qemu-img bench -f FMT -c foo t.img
qemu-img bench -f FMT -o 1M -c 2 t.img
qemu-img bench -f FMT -o foo -c 2 t.img
qemu-img bench -f FMT -o -1 -c 2 t.img
qemu-img bench -f FMT -s 64k -c 2 t.img
qemu-img bench -f FMT -s foo -c 2 t.img
qemu-img bench -f FMT -S 64k -c 2 t.img
qemu-img bench -f FMT -S 1 -s 1 -c 20 t.img
qemu-img bench -f FMT -S foo -c 2 t.img
qemu-img bench -f FMT -t none -c 2 t.img
qemu-img bench -f FMT -t foo -c 2 t.img
qemu-img bench -f FMT -i native -c 2 t.img
qemu-img bench -f FMT -i threads -c 2 t.img
qemu-img bench -f FMT -i io_uring -c 2 t.img
qemu-img bench -f FMT -i foo -c 2 t.img
qemu-img bench -f FMT -n -c 2 t.img
qemu-img bench -f FMT -q -c 2 t.img
qemu-img bench -f FMT -U -c 2 t.img
qemu-img bench -f FMT -U -w -c 2 t.img
qemu-img bench -f FMT -c 2 none.img
qemu-img bench -f FMT -c 2
qemu-img bench -f FMT -c 2 t.img t.img
qemu-img bench -f FMT -c 100000 -s 64k -o 5M t.img
qemu-img bench -f FMT -c 10 -s 8M t.img

@io FMT t.img 4M 'write -P 1 0 64k'
L; qemu-img info -f FMT t.img
L; qemu-img info -f FMT -U t.img
L; qemu-img check -f FMT t.img
L; qemu-img check -f FMT -U t.img
L; qemu-img check -f FMT -U -r all t.img
L; qemu-img map -f FMT t.img
L; qemu-img map -f FMT -U t.img
L; qemu-img measure -f FMT t.img
L; qemu-img measure -f FMT -U t.img
L; qemu-img convert -f FMT -O raw t.img o.raw
L; qemu-img convert -f FMT -U -O raw t.img o.raw
L; qemu-img convert -f raw -O FMT o.raw t.img
L; qemu-img convert -n -f raw -O FMT o.raw t.img
L; qemu-img compare -f FMT -F FMT t.img t.img
L; qemu-img compare -f FMT -F FMT -U t.img t.img
L; qemu-img create -f FMT t.img 1M
L; qemu-img create -f qcow2 -b t.img -F FMT u.img
L; qemu-img create -f qcow2 -b t.img -F FMT u.img 1M
L; qemu-img create -f qcow2 -u -b t.img -F FMT u.img 1M
L; qemu-img resize -f FMT t.img 8M
L; qemu-img snapshot -l t.img
L; qemu-img snapshot -U -l t.img
L; qemu-img snapshot -c one --image-opts driver=FMT,file.filename=t.img
L; qemu-img snapshot -U -c one t.img
L; qemu-img rebase -u -f FMT -b '' t.img
L; qemu-img rebase -U -u -f FMT -b '' t.img
L; qemu-img rebase -f FMT -b '' t.img
L; qemu-img commit -f FMT t.img
L; qemu-img amend -f FMT -o size=8M t.img
L; qemu-img dd -f FMT if=t.img of=o.raw
L; qemu-img dd -U -f FMT if=t.img of=o.raw
L; qemu-img dd -O FMT if=o.raw of=t.img
L; qemu-img bench -f FMT -c 1 t.img
L; qemu-img bench -f FMT -U -c 1 t.img
L; qemu-img bench -f FMT -w -c 1 t.img
L; qemu-img bitmap -f FMT --add t.img b
L; qemu-img info --image-opts driver=FMT,file.filename=t.img,force-share=on
L; qemu-img info -U --image-opts driver=FMT,file.filename=t.img,force-share=off
L; qemu-img info --image-opts driver=FMT,file.filename=t.img,file.locking=off
L; qemu-img info 'json:{"driver":"FMT","file":{"driver":"file","filename":"t.img","locking":"off"}}'
"""

USAGE = """
qemu-img
qemu-img foo
qemu-img -x
qemu-img --foo
qemu-img --foo info
qemu-img -T
qemu-img info
qemu-img info -f
qemu-img info -z
qemu-img info -z t.img
qemu-img info --foo t.img
qemu-img info --output t.img
qemu-img info --output=foo t.img
qemu-img info --output
qemu-img info --f raw t.img
qemu-img info --out json t.img
qemu-img info --force-share=1 t.img
qemu-img info none.img
qemu-img info a.img b.img
qemu-img info nodir/none.img
qemu-img info /
qemu-img info .
qemu-img info ''
qemu-img info -f foo none.img
qemu-img info -f raw .
qemu-img info /dev/null
qemu-img info -f raw /dev/null
qemu-img info /dev/zero
qemu-img info foo:bar
qemu-img info --object foo t.img
qemu-img info --object secret t.img
qemu-img info --object secret,id=s t.img
qemu-img info --object secret,id=1s,data=x t.img
qemu-img info --object secret,id=s,data=x,foo=bar t.img
qemu-img info --object foo,id=s t.img
qemu-img info --object secret,id=s,file=none t.img
qemu-img info --object
qemu-img check
qemu-img check -r
qemu-img check -r foo x.img
qemu-img check -f
qemu-img check --output=foo x.img
qemu-img check -T foo x.img
qemu-img check none.img
qemu-img check a b
qemu-img check -z
qemu-img check --foo
qemu-img create
qemu-img create -f
qemu-img create -f foo x.img 1M
qemu-img create -f foo
qemu-img create -f foo -o help
qemu-img create -f qcow2 -o help -o foo
qemu-img create -f bochs x.img 1M
qemu-img create -z
qemu-img create --foo x 1M
qemu-img create -o
qemu-img create -6 x 1M
qemu-img create -e x 1M
qemu-img create x
qemu-img create x 1M y
qemu-img commit
qemu-img commit none.img
qemu-img commit a b
qemu-img commit -b
qemu-img commit -t foo none.img
qemu-img commit -r foo none.img
qemu-img commit -r -1 none.img
qemu-img commit -z none.img
qemu-img compare
qemu-img compare a
qemu-img compare a b c
qemu-img compare a b
qemu-img compare -f foo a b
qemu-img compare -T foo a b
qemu-img compare -z a b
qemu-img compare -f
qemu-img compare --foo a b
qemu-img convert
qemu-img convert a
qemu-img convert none.img b
qemu-img convert -z a b
qemu-img convert -O foo none.img b
qemu-img convert -f foo none.img b
qemu-img convert -f foo -O bar none.img b
qemu-img convert -O
qemu-img convert -6 none.img b
qemu-img convert -e none.img b
qemu-img convert -s foo none.img b
qemu-img convert --foo none.img b
qemu-img convert -o help
qemu-img convert -O foo -o help
qemu-img convert -O qcow2 -o help a b
qemu-img convert -l
qemu-img convert -S none.img
qemu-img dd
qemu-img dd if=none.img
qemu-img dd of=none.img
qemu-img dd if=none.img of=b
qemu-img dd if=none.img of=b bs=0
qemu-img dd if=none.img of=b bs=foo
qemu-img dd if=none.img of=b bs=-1
qemu-img dd if=none.img of=b bs=3G
qemu-img dd if=none.img of=b count=foo
qemu-img dd if=none.img of=b count=-1
qemu-img dd if=none.img of=b skip=foo
qemu-img dd if=none.img of=b skip=-1
qemu-img dd if=none.img of=b foo=bar
qemu-img dd if=none.img of=b foo
qemu-img dd if=none.img of=b bs=
qemu-img dd if=none.img of=b conv=notrunc
qemu-img dd if=none.img of=b seek=1
qemu-img dd -O foo if=none.img of=b
qemu-img dd -f foo if=none.img of=b
qemu-img dd -z if=none.img of=b
qemu-img dd --foo if=none.img of=b
qemu-img dd -O
qemu-img map
qemu-img map a b
qemu-img map none.img
qemu-img map --output=foo none.img
qemu-img map --output none.img
qemu-img map -s foo none.img
qemu-img map -s -1 none.img
qemu-img map -l foo none.img
qemu-img map -l -1 none.img
qemu-img map --start-offset none.img
qemu-img map -z none.img
qemu-img measure
qemu-img measure a b
qemu-img measure none.img
qemu-img measure --size 1G none.img
qemu-img measure --size foo
qemu-img measure --size -1
qemu-img measure --size 16E
qemu-img measure --size 8E
qemu-img measure --size 7E
qemu-img measure --size 0
qemu-img measure --size 1
qemu-img measure --size 0 --size 0
qemu-img measure -O foo --size 1G
qemu-img measure -O bochs --size 1G
qemu-img measure -f raw --size 1G
qemu-img measure -f foo none.img
qemu-img measure -l foo --size 1G
qemu-img measure --image-opts --size 1G
qemu-img measure --output=foo --size 1G
qemu-img measure -o foo --size 1G
qemu-img measure -o help --size 1G
qemu-img measure -O qcow2 -o help --size 1G
qemu-img measure -O qcow2 -o size=1M --size 1G
qemu-img snapshot
qemu-img snapshot none.img
qemu-img snapshot -l
qemu-img snapshot -l none.img
qemu-img snapshot -c
qemu-img snapshot -c x
qemu-img snapshot -c x none.img
qemu-img snapshot -a x none.img
qemu-img snapshot -d x none.img
qemu-img snapshot -l -c x none.img
qemu-img snapshot -c x -l none.img
qemu-img snapshot -a x -d x none.img
qemu-img snapshot -l a b
qemu-img snapshot -z a
qemu-img snapshot --foo a
qemu-img rebase
qemu-img rebase none.img
qemu-img rebase -u none.img
qemu-img rebase -b
qemu-img rebase -b x none.img
qemu-img rebase -b x a b
qemu-img rebase -t foo -b x none.img
qemu-img rebase -T foo -b x none.img
qemu-img rebase -u -T foo -b x none.img
qemu-img rebase -z none.img
qemu-img rebase --foo none.img
qemu-img resize
qemu-img resize x
qemu-img resize 1M
qemu-img resize none.img 1M
qemu-img resize none.img foo
qemu-img resize none.img -1M
qemu-img resize none.img +1M
qemu-img resize none.img 1M 2M
qemu-img resize 1M none.img
qemu-img resize none.img +1M --shrink
qemu-img resize --preallocation none.img 1M
qemu-img resize --preallocation=foo none.img 1M
qemu-img resize -z none.img 1M
qemu-img resize --foo none.img 1M
qemu-img resize --size=1M none.img
qemu-img amend
qemu-img amend none.img
qemu-img amend -o
qemu-img amend -o foo
qemu-img amend -o foo none.img
qemu-img amend -o foo=bar none.img
qemu-img amend -o help
qemu-img amend -o help none.img
qemu-img amend -f foo -o help
qemu-img amend -f foo -o help none.img
qemu-img amend -f raw -o help
qemu-img amend -f qcow2 -o help
qemu-img amend -f luks -o help
qemu-img amend -t foo -o foo none.img
qemu-img amend -o foo a b
qemu-img amend -z -o foo a
qemu-img amend --foo -o foo a
qemu-img bitmap
qemu-img bitmap --add
qemu-img bitmap --add none.img
qemu-img bitmap --add none.img b
qemu-img bitmap none.img b
qemu-img bitmap --add -g foo none.img b
qemu-img bitmap --add -g 0 none.img b
qemu-img bitmap --remove -g 1k none.img b
qemu-img bitmap --add -b x none.img b
qemu-img bitmap --add -F raw none.img b
qemu-img bitmap --merge none.img b
qemu-img bitmap --merge x none.img b
qemu-img bitmap --add --add none.img b
qemu-img bitmap --add --remove none.img b
qemu-img bitmap --enable --disable none.img b
qemu-img bitmap --add --enable none.img b
qemu-img bitmap --add a b c
qemu-img bitmap -z
qemu-img bitmap --foo
qemu-img bench
qemu-img bench none.img
qemu-img bench a b
qemu-img bench -z a
qemu-img bench --foo a
qemu-img bench -c
ls

printf foo >t.img
qemu-img info t.img
qemu-img info -f qcow2 t.img
qemu-img info -f qcow t.img
qemu-img info -f qed t.img
qemu-img info -f vmdk t.img
qemu-img info -f vdi t.img
qemu-img info -f vpc t.img
qemu-img info -f vhdx t.img
qemu-img info -f parallels t.img
qemu-img info -f luks t.img
qemu-img info -f bochs t.img
qemu-img info -f cloop t.img
qemu-img info -f raw t.img
qemu-img info -f foo t.img
qemu-img map t.img
qemu-img map --output=json t.img
qemu-img check t.img
qemu-img check -f qcow2 t.img
qemu-img check --output=json -f qcow2 t.img
qemu-img resize t.img 1M
qemu-img resize t.img +1M
qemu-img convert -O qcow2 t.img o.img
qemu-img convert -f qcow2 -O raw t.img o.raw
qemu-img compare t.img o.img
qemu-img compare -f qcow2 t.img o.img
qemu-img compare t.img none.img
qemu-img compare none.img t.img
qemu-img commit t.img
qemu-img rebase -u -b '' t.img
qemu-img snapshot -l t.img
qemu-img snapshot -c x t.img
qemu-img amend -o compat=0.10 t.img
qemu-img bitmap --add t.img b
qemu-img bench -c 1 t.img
qemu-img bench -w -c 1 t.img
qemu-img dd if=t.img of=d.img
qemu-img dd if=t.img of=d.img -f qcow2
qemu-img measure t.img
qemu-img measure -O qcow2 t.img
qemu-img measure -f qcow2 t.img

: >t.img
qemu-img info t.img
qemu-img info -f raw t.img
qemu-img info -f qcow2 t.img
qemu-img map t.img
qemu-img map --output=json t.img
qemu-img convert -O qcow2 t.img o.img
qemu-img convert -O raw t.img o.raw
qemu-img convert -p -O raw t.img o.raw
qemu-img compare t.img o.img
qemu-img compare -p t.img o.img
qemu-img compare -s t.img o.img
qemu-img dd if=t.img of=d.img
qemu-img measure t.img
qemu-img measure -O qcow2 t.img
chmod 0 t.img; qemu-img info t.img
"""

QCOW2 = r"""
qemu-img create -f qcow2 -o compat=0.10 t.img 1M
qemu-img info t.img
qemu-img create -f qcow2 -o compat=v2 t.img 1M
qemu-img create -f qcow2 -o compat=v3 t.img 1M
qemu-img create -f qcow2 -o compat=1.1 t.img 1M
qemu-img info t.img
qemu-img create -f qcow2 -o compat=foo t.img 1M
qemu-img create -f qcow2 -o compat=0.42 t.img 1M
qemu-img create -f qcow2 -o compat=0.10,lazy_refcounts=on t.img 1M
qemu-img create -f qcow2 -o compat=1.1,lazy_refcounts=on t.img 1M
qemu-img info t.img
qemu-img create -f qcow2 -o lazy_refcounts=42 t.img 1M
qemu-img create -f qcow2 -o lazy_refcounts=true t.img 1M
qemu-img create -f qcow2 -o lazy_refcounts t.img 1M
qemu-img create -f qcow2 -o nolazy_refcounts t.img 1M
qemu-img create -f qcow2 -o cluster_size=64 t.img 1M
qemu-img create -f qcow2 -o cluster_size=256 t.img 1M
qemu-img create -f qcow2 -o cluster_size=512 t.img 1M
qemu-img create -f qcow2 -o cluster_size=1234 t.img 1M
qemu-img create -f qcow2 -o cluster_size=64k t.img 1M
qemu-img create -f qcow2 -o cluster_size=2M t.img 1M
qemu-img create -f qcow2 -o cluster_size=4M t.img 1M
qemu-img create -f qcow2 -o cluster_size=-1 t.img 1M
qemu-img create -f qcow2 -o cluster_size=-1024 t.img 1M
qemu-img create -f qcow2 -o cluster_size=-1k t.img 1M
qemu-img create -f qcow2 -o cluster_size=1kilobyte t.img 1M
qemu-img create -f qcow2 -o cluster_size=foo t.img 1M
qemu-img create -f qcow2 -o cluster_size=0 t.img 1M
qemu-img create -f qcow2 -o cluster_size= t.img 1M
qemu-img create -f qcow2 -o cluster_size t.img 1M
qemu-img create -f qcow2 -o cluster_size=1k,compat=0.10 t.img 1M
qemu-img create -f qcow2 -o refcount_bits=1 t.img 1M
qemu-img create -f qcow2 -o refcount_bits=64 t.img 1M
qemu-img create -f qcow2 -o refcount_bits=128 t.img 1M
qemu-img create -f qcow2 -o refcount_bits=7 t.img 1M
qemu-img create -f qcow2 -o refcount_bits=0 t.img 1M
qemu-img create -f qcow2 -o refcount_bits=-1 t.img 1M
qemu-img create -f qcow2 -o refcount_bits=foo t.img 1M
qemu-img create -f qcow2 -o refcount_bits=16foo t.img 1M
qemu-img create -f qcow2 -o refcount_bits=1,compat=0.10 t.img 1M
qemu-img create -f qcow2 -o extended_l2=on t.img 1M
qemu-img info t.img
qemu-img create -f qcow2 -o extended_l2=on,cluster_size=8k t.img 1M
qemu-img create -f qcow2 -o extended_l2=on,cluster_size=16k t.img 1M
qemu-img create -f qcow2 -o extended_l2=on,compat=0.10 t.img 1M
qemu-img create -f qcow2 -o extended_l2=on,preallocation=metadata t.img 1M
qemu-img create -f qcow2 -o compression_type=zstd t.img 1M
qemu-img info t.img
qemu-img create -f qcow2 -o compression_type=zlib t.img 1M
qemu-img create -f qcow2 -o compression_type=foo t.img 1M
qemu-img create -f qcow2 -o compression_type=zstd,compat=0.10 t.img 1M
qemu-img create -f qcow2 -o compression_type=zlib,compat=0.10 t.img 1M
qemu-img create -f qcow2 -o compression_type= t.img 1M
qemu-img create -f qcow2 -o data_file=d.raw t.img 1M
qemu-img info t.img
qemu-img info --output=json t.img
qemu-img create -f qcow2 -o data_file=d.raw,data_file_raw=on t.img 1M
qemu-img info t.img
qemu-img create -f qcow2 -o data_file_raw=on t.img 1M
qemu-img create -f qcow2 -o data_file=d.raw,compat=0.10 t.img 1M
qemu-img create -f qcow2 -o data_file=nodir/d.raw t.img 1M
qemu-img create -f qcow2 -o data_file=d.raw,data_file_raw=on,backing_file=x,backing_fmt=raw -u t.img 1M
qemu-img create -f qcow2 -o data_file=d.raw,preallocation=metadata t.img 1M
qemu-img map --output=json t.img
qemu-img create -f qcow2 -o preallocation=metadata -b t.img -F qcow2 u.img
qemu-img create -f qcow2 -o preallocation=falloc -b t.img -F qcow2 u.img
qemu-img create -f qcow2 -o preallocation=full -b t.img -F qcow2 u.img
qemu-img create -f qcow2 -o preallocation=1234 u.img 1M
qemu-img create -f qcow2 -o encryption=on u.img 1M
qemu-img create -f qcow2 -o encryption=off u.img 1M
qemu-img create -f qcow2 -o encryption=foo u.img 1M
qemu-img create -f qcow2 -o encrypt.format=aes u.img 1M
qemu-img create -f qcow2 -o encrypt.format=luks u.img 1M
qemu-img create -f qcow2 -o encrypt.format=foo u.img 1M
qemu-img create -f qcow2 -o encrypt.format=luks,encryption=on u.img 1M
qemu-img create -f qcow2 -o encrypt.format=luks,encrypt.key-secret=s u.img 1M
qemu-img create -f qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 u.img 1M
qemu-img info u.img
qemu-img info --image-opts file.filename=u.img,encrypt.key-secret=s
qemu-img info --object secret,id=s,data=y --image-opts driver=qcow2,file.filename=u.img,encrypt.key-secret=s
qemu-img info --object secret,id=s,data=x --image-opts driver=qcow2,file.filename=u.img,encrypt.key-secret=s
qemu-img map u.img
qemu-img convert u.img x.raw
qemu-img convert --object secret,id=s,data=x --image-opts driver=qcow2,file.filename=u.img,encrypt.key-secret=s x.raw
qemu-img compare u.img u.img
qemu-img check u.img
qemu-img resize u.img 2M
qemu-img create -f qcow2 --object secret,id=s,data=x -o encrypt.format=aes,encrypt.key-secret=s u.img 1M
qemu-img info u.img
qemu-img create -f qcow2 --object secret,id=s,data=x -o encryption=on,encrypt.key-secret=s u.img 1M
qemu-img create -f qcow2 --object secret,id=s,data=x -o encrypt.format=aes,encrypt.key-secret=s,encrypt.iter-time=10 u.img 1M
qemu-img create -f qcow2 --object secret,id=s,data=x -o encrypt.key-secret=s u.img 1M
qemu-img create -f qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.cipher-alg=foo u.img 1M
qemu-img create -f qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=foo u.img 1M
qemu-img create -f qcow2 -o cluster_size=4k,cluster_size=8k t.img 1M
qemu-img create -f qcow2 -o cluster_size=4k -o cluster_size=8k t.img 1M
qemu-img create -f qcow2 -o cluster_size=4k -o lazy_refcounts=on t.img 1M
qemu-img create -f qcow2 -o cluster_size=4k,help -o lazy_refcounts=on t.img 1M
qemu-img create -f qcow2 -o backing_file=t.img,,help,backing_fmt=qcow2 u.img
qemu-img create -f qcow2 -o backing_file=t.img, -o ,help u.img 1M
qemu-img create -f qcow2 -o backing_file=t.img -o ,help u.img 1M
qemu-img create -f qcow2 -o backing_file=t.img,,help u.img 1M
qemu-img create -f qcow2 -o backing_file=t.img,,? u.img 1M
qemu-img create -f qcow2 -o help,cluster_size=4k
qemu-img create -f qcow2 -o help=on
qemu-img create -f qcow2 -u -b a,,b -F raw u.img 1M
qemu-img create -f qcow2 -u -b 'a b' -F raw u.img 1M
qemu-img create -f qcow2 -u -b "a'b" -F raw u.img 1M
qemu-img create -f qcow2 -u -b 'a=b,c' -F raw u.img 1M
qemu-img info u.img
qemu-img create -f qcow2 "a b.img" 1M
qemu-img create -f qcow2 "a'b.img" 1M
qemu-img create -f qcow2 t.img 2E
qemu-img create -f qcow2 -o cluster_size=512 t.img 200G
qemu-img create -f qcow2 -o cluster_size=2M t.img 64P
qemu-img create -f qcow2 -o preallocation=metadata t.img 1G
qemu-img create -f qcow2 -u -b $(printf 'x%.0s' $(seq 1 1023)) -F raw t.img 1M
qemu-img create -f qcow2 -u -b $(printf 'x%.0s' $(seq 1 1024)) -F raw t.img 1M

qemu-img create -f qcow2 t.img 16M
qemu-img amend -o compat=0.10 t.img
qemu-img info t.img
qemu-img amend -o compat=1.1 t.img
qemu-img amend -o compat=foo t.img
qemu-img amend -o compat=v2,lazy_refcounts=on t.img
qemu-img amend -o lazy_refcounts=on t.img
qemu-img amend -p -o lazy_refcounts=off t.img
qemu-img amend -p -o compat=0.10 t.img
qemu-img amend -q -p -o compat=1.1 t.img
qemu-img amend -o size=32M t.img
qemu-img amend -o size=8M t.img
qemu-img amend -o size=0 t.img
qemu-img amend -o size=foo t.img
qemu-img amend -o backing_file=none,backing_fmt=raw t.img
qemu-img amend -o backing_file=none t.img
qemu-img amend -o backing_fmt=raw t.img
qemu-img amend -o backing_file= t.img
qemu-img amend -o backing_file=/none,backing_fmt=raw t.img
qemu-img info t.img
qemu-img amend -o cluster_size=32k t.img
qemu-img amend -o cluster_size=64k t.img
qemu-img amend -o encryption=on t.img
qemu-img amend -o encryption=off t.img
qemu-img amend -o encrypt.format=luks t.img
qemu-img amend -o encrypt.state=active t.img
qemu-img amend -o preallocation=on t.img
qemu-img amend -o preallocation=metadata t.img
qemu-img amend -o preallocation=off t.img
qemu-img amend -o refcount_bits=8 t.img
qemu-img amend -o refcount_bits=3 t.img
qemu-img amend -o refcount_bits=128 t.img
qemu-img amend -o refcount_bits=64 t.img
qemu-img amend -o compat=0.10 t.img
qemu-img amend -o compat=0.10,refcount_bits=16 t.img
qemu-img amend -o refcount_bits=1 t.img
qemu-img amend -o compat=1.1,refcount_bits=1 t.img
qemu-img amend -o compression_type=zstd t.img
qemu-img amend -o extended_l2=on t.img
qemu-img amend -o data_file=x t.img
qemu-img amend -o data_file_raw=on t.img
qemu-img amend -o data_file_raw=off t.img
qemu-img amend -o cluster_size=64k,cluster_size=128k t.img
qemu-img amend -o preallocation=foo t.img
qemu-img amend -o nocow=on t.img
qemu-img amend -o help t.img
qemu-img amend -o '?' t.img
qemu-img amend -o compat=1.1,help t.img
qemu-img amend -o , t.img
qemu-img amend -o ,help t.img
qemu-img amend -o '' t.img
qemu-img amend -f raw -o compat=1.1 t.img
qemu-img amend --force -o compat=1.1 t.img
qemu-img amend -t none -o compat=1.1 t.img
qemu-img amend -t foo -o compat=1.1 t.img
qemu-img check -q t.img

@io qcow2 t.img 16M 'write -P 1 0 64k'
qemu-img snapshot -c one t.img
qemu-img snapshot -c one t.img
qemu-img snapshot -c 1 t.img
qemu-img snapshot -l t.img
qemu-img info t.img
qemu-img info --output=json t.img
qemu-io -c 'write -q -P 2 0 128k' t.img
qemu-img snapshot -a one t.img
qemu-img snapshot -a 2 t.img
qemu-img snapshot -a none t.img
qemu-img snapshot -d none t.img
qemu-img snapshot -d one t.img
qemu-img snapshot -l t.img
qemu-img snapshot -q -c two t.img
qemu-img snapshot -c '' t.img
qemu-img snapshot -c "with space" t.img
qemu-img snapshot -c $(printf 'n%.0s' $(seq 1 300)) t.img
qemu-img snapshot -l t.img
qemu-img snapshot t.img
qemu-img snapshot -U -l t.img
qemu-img snapshot -U -c x t.img
qemu-img convert -l two -O raw t.img o.raw
qemu-img convert -l snapshot.id=2 -O raw t.img o.raw
qemu-img convert -l snapshot.id=2,snapshot.name=1 -O raw t.img o.raw
qemu-img convert -l snapshot.id=9 -O raw t.img o.raw
qemu-img convert -l snapshot.name=none -O raw t.img o.raw
qemu-img convert -l snapshot.foo=none -O raw t.img o.raw
qemu-img convert -l none -O raw t.img o.raw
qemu-img measure -l two t.img
qemu-img measure -l none t.img
qemu-img measure -l snapshot.name=two -O qcow2 t.img
qemu-img measure -l snapshot.name=none t.img
qemu-img resize t.img 32M
qemu-img resize --shrink t.img 8M
qemu-img amend -o compat=0.10 t.img
qemu-img amend -o refcount_bits=1 t.img
qemu-img amend -o size=64M t.img
qemu-img amend -o size=1M t.img
qemu-img check t.img
qemu-img check -r all t.img

@io qcow2 b0.img 16M 'write -P 1 0 64k' 'write -P 1 1M 64k'
qemu-img create -f qcow2 -b b0.img -F qcow2 b1.img
qemu-img create -f qcow2 -b b1.img -F qcow2 t.img 32M
qemu-io -c 'write -P 2 64k 64k' b1.img >/dev/null
qemu-io -c 'write -P 3 128k 64k' -c 'write -z 1M 64k' t.img >/dev/null
qemu-img info --backing-chain t.img
qemu-img info --backing-chain --output=json t.img
qemu-img map t.img
qemu-img map --output=json t.img
qemu-img map --output=json -U t.img
qemu-img check t.img
qemu-img measure -O qcow2 t.img
qemu-img measure -O raw t.img
qemu-img convert -O qcow2 t.img o.img
qemu-img convert -B b1.img -F qcow2 -O qcow2 t.img p.img
qemu-img map --output=json p.img
qemu-img convert -B b1.img -O qcow2 t.img p.img
qemu-img convert -B b1.img -F foo -O qcow2 t.img p.img
qemu-img convert -B none -F qcow2 -O qcow2 t.img p.img
qemu-img convert -o backing_file=b1.img,backing_fmt=qcow2 -O qcow2 t.img p.img
qemu-img convert -B b0.img -F qcow2 -o backing_file=b1.img -O qcow2 t.img p.img
qemu-img convert -c -B b1.img -F qcow2 -O qcow2 t.img p.img
qemu-img convert -n -B b1.img -F qcow2 -O qcow2 t.img p.img
qemu-img compare t.img o.img
qemu-img compare t.img p.img
qemu-img compare -s t.img p.img
qemu-img compare t.img b0.img
qemu-img compare b0.img b1.img
qemu-img compare -s b0.img t.img
qemu-img compare -q b0.img t.img
qemu-img commit -d t.img
qemu-img commit t.img
qemu-img map --output=json t.img
qemu-img info b1.img
qemu-img commit -b b0.img t.img
qemu-img commit -q t.img
qemu-img commit -b none t.img
qemu-img commit -b t.img t.img
qemu-img commit -r 1G t.img
qemu-img commit -t foo t.img
qemu-img commit -t none t.img
qemu-img commit -b b1.img t.img
qemu-img info b0.img
qemu-img map --output=json b1.img
qemu-img compare t.img o.img
qemu-img commit b0.img

@io qcow2 a.img 4M 'write -P 1 0 64k' 'write -P 1 1M 64k'
@io qcow2 b.img 8M 'write -P 1 0 64k' 'write -P 2 64k 64k' 'write -P 7 6M 64k'
@io qcow2 c.img 2M 'write -P 1 0 64k' 'write -P 3 256k 64k'
qemu-img create -f qcow2 -b a.img -F qcow2 t.img 8M
qemu-img rebase -b b.img -F qcow2 t.img
qemu-img info t.img
qemu-img map --output=json t.img
qemu-img rebase -b c.img -F qcow2 t.img
qemu-img map --output=json t.img
qemu-img rebase -b a.img -F qcow2 t.img
qemu-img map --output=json t.img
qemu-img rebase -b '' t.img
qemu-img info t.img
qemu-img map --output=json t.img
qemu-img rebase -u -b a.img -F qcow2 t.img
qemu-img rebase -u -b none.img -F qcow2 t.img
qemu-img info t.img
qemu-img info --backing-chain t.img
qemu-img map t.img
qemu-img convert t.img x.raw
qemu-img check t.img
qemu-img compare t.img t.img
qemu-img commit t.img
qemu-img rebase -b a.img -F qcow2 t.img
qemu-img rebase -u -b b.img -F qcow2 t.img
qemu-img rebase -b none.img -F qcow2 t.img
qemu-img rebase -b b.img -F foo t.img
qemu-img rebase -u -b b.img -F foo t.img
qemu-img info t.img
qemu-img info --backing-chain t.img
qemu-img map t.img
qemu-img rebase -u -b a.img t.img
qemu-img rebase -b a.img t.img
qemu-img rebase -u -b a.img -F qcow2 t.img
qemu-img rebase -t none -T none -b b.img -F qcow2 t.img
qemu-img rebase -q -b a.img -F qcow2 t.img
qemu-img rebase -U -u -b a.img -F qcow2 t.img
qemu-img rebase -u -b t.img -F qcow2 t.img
qemu-img info t.img
qemu-img info --backing-chain t.img
qemu-img info --backing-chain --output=json t.img
qemu-img rebase -u -b '' t.img
qemu-img create -f qcow2 -u -b u2.img -F qcow2 u1.img 1M
qemu-img create -f qcow2 -u -b u1.img -F qcow2 u2.img 1M
qemu-img info --backing-chain u1.img
qemu-img rebase -b json:foo -F qcow2 t.img

mkdir d
@io qcow2 d/a.img 4M 'write -P 1 0 64k'
qemu-img create -f qcow2 -b a.img -F qcow2 d/t.img
qemu-img create -f qcow2 -b d/a.img -F qcow2 t.img
qemu-img create -f qcow2 -b a.img -F qcow2 ./d/t2.img
qemu-img create -f qcow2 -b ../d/a.img -F qcow2 d/t3.img
qemu-img create -f qcow2 -b nothere.img -F qcow2 d/t4.img
qemu-img create -f qcow2 -b file:a.img -F qcow2 d/t5.img
qemu-img create -f qcow2 -b "$PWD/d/a.img" -F qcow2 t6.img >/dev/null
qemu-img info d/t.img
qemu-img info --backing-chain d/t.img
qemu-img info --output=json d/t.img
qemu-img info --backing-chain d/t3.img
qemu-img info --backing-chain --output=json ./d/t2.img
qemu-img info --image-opts driver=qcow2,file.filename=d/t.img
qemu-img info --backing-chain --image-opts driver=qcow2,file.filename=d/t.img
qemu-img map --image-opts driver=qcow2,file.filename=d/t.img,backing.driver=qcow2,backing.file.filename=d/a.img
qemu-img info 'json:{"driver":"qcow2","file":{"driver":"file","filename":"d/t.img"}}'
qemu-img info 'json:{"driver":"qcow2","backing":null,"file":{"driver":"file","filename":"d/t.img"}}'
qemu-img info --backing-chain 'json:{"driver":"qcow2","file":{"driver":"file","filename":"d/t.img"}}'
qemu-img rebase -u -b nothere.img -F qcow2 d/t.img
qemu-img info d/t.img
qemu-img info --backing-chain d/t.img
qemu-img map d/t.img
qemu-img commit d/t.img
qemu-img commit -b a.img d/t2.img
qemu-img commit -b d/a.img d/t3.img
qemu-img commit -b ../d/a.img d/t3.img
qemu-img rebase -b a.img -F qcow2 d/t2.img
qemu-img rebase -b d/a.img -F qcow2 d/t2.img

@io qcow2 t.img 4M 'write -P 1 0 64k'
qemu-img bitmap --add t.img b0
qemu-img bitmap --add -g 32k t.img b1
qemu-img bitmap --add -g 1000 t.img b2
qemu-img bitmap --add -g 256 t.img b2
qemu-img bitmap --add -g 4G t.img b2
qemu-img bitmap --add t.img b0
qemu-img bitmap --add --disable t.img b3
qemu-img info t.img
qemu-img info --output=json t.img
qemu-img bitmap --disable t.img b0
qemu-img bitmap --enable t.img b0
qemu-img bitmap --clear t.img b0
qemu-img bitmap --clear t.img none
qemu-img bitmap --remove t.img none
qemu-img bitmap --enable t.img none
qemu-img bitmap --disable t.img none
qemu-img bitmap --merge b1 t.img b0
qemu-img bitmap --merge none t.img b0
qemu-img bitmap --merge b1 t.img none
qemu-img bitmap --merge b0 t.img b0
qemu-img bitmap --merge b1 -b t.img -F qcow2 t.img b0
qemu-img bitmap --merge b1 -b none.img -F qcow2 t.img b0
qemu-img bitmap --add '' t.img
qemu-img bitmap --add t.img ''
qemu-img bitmap --add t.img $(printf 'n%.0s' $(seq 1 1024))
qemu-img bitmap --remove t.img b3
qemu-img bitmap --remove -f raw t.img b1
qemu-img convert --bitmaps -O qcow2 t.img o.img
qemu-img info o.img
qemu-img convert --bitmaps -O raw t.img o.raw
qemu-img convert --bitmaps -O qcow2 -o compat=0.10 t.img o.img
qemu-img convert --bitmaps -n -O qcow2 t.img o.img
qemu-img measure -O qcow2 t.img
qemu-img measure -O qcow2 -o compat=0.10 t.img
qemu-img measure --output=json -O qcow2 t.img
qemu-img resize t.img 8M
qemu-img snapshot -c s t.img
qemu-img amend -o compat=0.10 t.img
qemu-img create -f qcow2 -o compat=0.10 v2.img 1M
qemu-img bitmap --add v2.img b
qemu-img create -f qcow2 v3.img 1M
qemu-img bitmap --add v3.img b
qemu-img rebase -u -b none -F raw v3.img

@io qcow2 t.img 4M 'write -P 1 0 64k' 'write -P 1 1M 64k'
printf '\377\377' | dd of=t.img bs=1 seek=131072 conv=notrunc 2>/dev/null
qemu-img check t.img
qemu-img check --output=json t.img
qemu-img check -r leaks t.img
qemu-img check -r all t.img
qemu-img check t.img
printf '\0\0\0\0\0\0\0\0' | dd of=t.img bs=1 seek=262144 conv=notrunc 2>/dev/null
qemu-img check t.img
qemu-img check -q t.img
qemu-img check --output=json t.img
qemu-img check -r leaks --output=json t.img
printf '\200\0\0\0\0\5\0\0' | dd of=t.img bs=1 seek=262144 conv=notrunc 2>/dev/null
qemu-img check t.img
qemu-img check -r leaks t.img
qemu-img check -r all t.img
qemu-img check t.img
printf '\0\0\0\0' | dd of=t.img bs=1 seek=100 conv=notrunc 2>/dev/null
qemu-img info t.img
printf '\0\0\0\3' | dd of=t.img bs=1 seek=4 conv=notrunc 2>/dev/null
qemu-img info t.img

@io qcow2 t.img 4M 'write -P 1 0 64k'
printf '\0\0\0\4' | dd of=t.img bs=1 seek=4 conv=notrunc 2>/dev/null
qemu-img info t.img
qemu-img check t.img
qemu-img convert t.img x.raw
printf '\0\0\0\3' | dd of=t.img bs=1 seek=4 conv=notrunc 2>/dev/null
printf '\200' | dd of=t.img bs=1 seek=72 conv=notrunc 2>/dev/null
qemu-img info t.img
qemu-img check t.img
qemu-img amend -o compat=0.10 t.img
printf '\0' | dd of=t.img bs=1 seek=72 conv=notrunc 2>/dev/null
printf '\2' | dd of=t.img bs=1 seek=79 conv=notrunc 2>/dev/null
qemu-img info t.img
qemu-img check t.img
qemu-img resize t.img 8M
qemu-img check -r all t.img
qemu-img info t.img
printf '\1' | dd of=t.img bs=1 seek=79 conv=notrunc 2>/dev/null
qemu-img info t.img
qemu-img info --output=json t.img
qemu-img check t.img
qemu-img check -r leaks t.img
qemu-img resize t.img 8M
qemu-img info t.img

@io qcow2 s.img 4M 'write -P 1 0 64k'
qemu-img convert -c -O qcow2 s.img t.img
qemu-img check t.img
qemu-img check --output=json t.img
qemu-img map t.img
qemu-img map --output=json t.img
qemu-img convert -c -O qcow2 -o compression_type=zstd s.img t.img
qemu-img convert -c -O qcow2 -o compression_type=zstd,cluster_size=2M s.img t.img
qemu-img convert -c -O qcow2 -o encrypt.format=luks,encrypt.key-secret=x s.img t.img
qemu-img convert -c -O qcow2 -o data_file=x s.img t.img
qemu-img convert -c -O qcow2 -o preallocation=metadata s.img t.img
qemu-img convert -c -O raw s.img t.img
qemu-img convert -c -O qcow2 s.img s.img t.img
qemu-img convert -O qcow2 -o cluster_size=1M s.img t.img
qemu-img convert -O qcow2 -o compat=0.10 s.img t.img
qemu-img convert -O qcow2 -o lazy_refcounts=on s.img t.img
qemu-img info t.img
qemu-img measure -O qcow2 -o cluster_size=4k s.img
qemu-img measure -O qcow2 -o cluster_size=foo s.img
qemu-img measure -O qcow2 -o cluster_size=100 s.img
qemu-img measure -O qcow2 -o preallocation=full s.img
qemu-img measure -O qcow2 -o preallocation=metadata --size 1G
qemu-img measure -O qcow2 -o refcount_bits=1 --size 1G
qemu-img measure -O qcow2 -o extended_l2=on --size 1G
qemu-img measure -O qcow2 -o backing_file=foo --size 1G
qemu-img measure -O qcow2 -o backing_file=foo s.img
qemu-img measure -O qcow2 -o encrypt.format=luks --size 1G
qemu-img measure -O qcow2 -o encrypt.format=luks,encrypt.key-secret=s --size 1G
qemu-img measure -O qcow2 --object secret,id=s,data=x -o encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10 --size 1G
qemu-img measure -O qcow2 --size 2P
qemu-img measure -O qcow2 --size 9223372036854774784
qemu-img measure -O qcow2 -o compat=0.10 --size 1G
"""
