"""Stories of single formats, as those in img_stories."""

LUKS = """
qemu-img create -f luks t.img 1M
qemu-img create -f luks -o key-secret=s t.img 1M
qemu-img create -f luks SECRET -o key-secret=s t.img
qemu-img create -f luks SECRET t.img 1M
qemu-img create -f luks SECRET -o key-secret=x t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,iter-time=10 t.img 1M
qemu-img info -f luks t.img
qemu-img info t.img
qemu-img info --output=json t.img
qemu-img info --object secret,id=s,data=wrong --image-opts driver=luks,file.filename=t.img,key-secret=s
qemu-img info SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s
qemu-img info SECRET --image-opts driver=luks,file.filename=t.img,key-secret=x
qemu-img check t.img
qemu-img check SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s
qemu-img map t.img
qemu-img map SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s
qemu-img map --output=json SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s
qemu-img convert t.img x.raw
qemu-img convert SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s x.raw
qemu-img convert SECRET -O luks x.raw y.img
qemu-img convert SECRET -O luks -o key-secret=s,iter-time=10 x.raw y.img
qemu-img convert SECRET -O luks -n x.raw y.img
qemu-img convert SECRET --target-image-opts -n x.raw driver=luks,file.filename=y.img,key-secret=s
qemu-img convert -c SECRET -O luks -o key-secret=s,iter-time=10 x.raw y.img
qemu-img resize t.img 2M
qemu-img resize SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s 2M
qemu-img resize SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s --shrink 1M
qemu-img resize SECRET --shrink --image-opts driver=luks,file.filename=t.img,key-secret=s 1M
qemu-img measure -O luks --size 1M
qemu-img measure -O luks SECRET -o key-secret=s --size 1M
qemu-img measure -O luks SECRET -o key-secret=s,iter-time=10 --size 1G
qemu-img measure t.img
qemu-img measure SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s
qemu-img snapshot -c x SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s
qemu-img compare t.img t.img
qemu-img commit t.img
qemu-img rebase -u -b '' SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s
qemu-img create -f luks SECRET -o key-secret=s,cipher-alg=foo t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,cipher-mode=foo t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,ivgen-alg=foo t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,ivgen-hash-alg=foo t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,hash-alg=foo t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,iter-time=foo t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,iter-time=10,foo=bar t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,iter-time=10,cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv,ivgen-hash-alg=sha256,hash-alg=sha1 t.img 1M
qemu-img info t.img
qemu-img create -f luks SECRET -o key-secret=s,iter-time=10,cipher-alg=aes-128,cipher-mode=cbc,ivgen-alg=essiv t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,iter-time=10,cipher-alg=serpent-256 t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,iter-time=10,cipher-alg=twofish-128,cipher-mode=ctr,ivgen-alg=plain t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,iter-time=10,cipher-alg=cast5-128,cipher-mode=xts t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,iter-time=10,preallocation=full t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,iter-time=10,preallocation=metadata t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,iter-time=10,preallocation=foo t.img 1M
qemu-img create -f luks SECRET -o key-secret=s,iter-time=10 -b t.img -F luks u.img 1M
qemu-img create -f luks SECRET -o key-secret=s,iter-time=10 t.img 8E
qemu-img create -f luks SECRET -o key-secret=s,iter-time=10 t.img 9223372036854775807
qemu-img create -f luks SECRET -o key-secret=s,iter-time=10 t.img 7E

qemu-img create -q -f luks SECRET -o key-secret=s,iter-time=10 t.img 1M
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o foo=bar
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o help
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=active
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=active,new-secret=x
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=active,new-secret=s,iter-time=10
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=active,new-secret=s,iter-time=10,keyslot=5
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=active,new-secret=s,iter-time=10,keyslot=5
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=active,new-secret=s,iter-time=10,keyslot=9
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=foo
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=inactive
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=inactive,keyslot=7
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=inactive,keyslot=5
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=inactive,old-secret=s
qemu-img amend SECRET --force --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=inactive,keyslot=5
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=inactive,keyslot=1,old-secret=s
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=inactive,keyslot=1
qemu-img amend SECRET --image-opts driver=luks,file.filename=t.img,key-secret=s -o state=inactive,keyslot=0
qemu-img info t.img
"""

VMDK = """
qemu-img create -f vmdk -o subformat=SUB t.img 8M
qemu-img info -f vmdk t.img
qemu-img info --output=json -f vmdk t.img
qemu-img check -f vmdk t.img
qemu-img map -f vmdk --output=json t.img
qemu-img create -f vmdk -o subformat=SUB,adapter_type=buslogic t.img 8M
qemu-img create -f vmdk -o subformat=SUB,adapter_type=foo t.img 8M
qemu-img create -f vmdk -o subformat=SUB,compat6 t.img 8M
qemu-img create -f vmdk -o subformat=SUB,compat6=on,hwversion=4 t.img 8M
qemu-img create -f vmdk -o subformat=SUB,hwversion=7 t.img 8M
qemu-img create -f vmdk -o subformat=SUB,hwversion=foo t.img 8M
qemu-img create -f vmdk -o subformat=SUB,toolsversion=123 t.img 8M
qemu-img create -f vmdk -o subformat=SUB,zeroed_grain=on t.img 8M
qemu-img create -f vmdk -o subformat=SUB,zeroed_grain=foo t.img 8M
qemu-img create -f vmdk -o subformat=SUB t.img 5G
qemu-img info -f vmdk t.img
qemu-img create -f vmdk -o subformat=SUB t.img 0
qemu-img create -f vmdk -o subformat=SUB t.img 10T
qemu-img create -f vmdk -o subformat=SUB,preallocation=full t.img 1M
qemu-img resize -f vmdk t.img 16M
qemu-img create -q -f vmdk base.img 4M
qemu-img convert -f vmdk -O vmdk -o subformat=SUB base.img t.img
qemu-img info -f vmdk t.img
qemu-img convert -n -f vmdk -O vmdk base.img t.img
qemu-img measure -O vmdk -o subformat=SUB --size 1G
ls
"""

OTHERS = """
qemu-img create -f vdi -o static=on t.img 4M
qemu-img info -f vdi t.img
qemu-img create -f vdi -o static=foo t.img 4M
qemu-img create -f vdi -o static t.img 4M
qemu-img convert -f vdi -O vdi -o static=on t.img o.img
qemu-img convert -f vdi -O vdi -o preallocation=metadata t.img o.img
qemu-img create -f vdi -o preallocation=falloc t.img 4M
qemu-img create -f vdi -o cluster_size=64k t.img 4M
qemu-img measure -O vdi -o static=on --size 1G

qemu-img create -f vpc -o subformat=fixed t.img 4M
qemu-img info -f vpc t.img
qemu-img create -f vpc -o subformat=fixed,force_size=on t.img 4M
qemu-img create -f vpc -o subformat=dynamic,force_size=on t.img 4M
qemu-img info -f vpc t.img
qemu-img create -f vpc -o subformat=foo t.img 4M
qemu-img create -f vpc -o force_size=foo t.img 4M
qemu-img create -f vpc -o force_size t.img 4M
qemu-img create -f vpc -o force_size=on t.img 2040G
qemu-img create -f vpc -o force_size=on t.img 2041G
qemu-img create -f vpc t.img 127G
qemu-img create -f vpc t.img 128G
qemu-img create -f vpc t.img 2040G
qemu-img create -f vpc -o subformat=fixed t.img 2041G
qemu-img convert -f vpc -O vpc -o subformat=fixed t.img o.img
qemu-img measure -O vpc --size 1G

qemu-img create -f vhdx -o subformat=fixed t.img 4M
qemu-img info -f vhdx t.img
qemu-img create -f vhdx -o subformat=dynamic t.img 4M
qemu-img create -f vhdx -o subformat=foo t.img 4M
qemu-img create -f vhdx -o block_size=1M t.img 4M
qemu-img info -f vhdx t.img
qemu-img create -f vhdx -o block_size=3M t.img 4M
qemu-img create -f vhdx -o block_size=512k t.img 4M
qemu-img create -f vhdx -o block_size=257M t.img 4M
qemu-img create -f vhdx -o block_size=512M t.img 4M
qemu-img create -f vhdx -o block_size=0 t.img 4M
qemu-img create -f vhdx -o block_size=foo t.img 4M
qemu-img create -f vhdx -o log_size=1M t.img 4M
qemu-img create -f vhdx -o log_size=5M t.img 4M
qemu-img create -f vhdx -o log_size=1500k t.img 4M
qemu-img create -f vhdx -o log_size=4G t.img 4M
qemu-img create -f vhdx -o log_size=foo t.img 4M
qemu-img create -f vhdx -o block_state_zero=off t.img 4M
qemu-img create -f vhdx -o block_state_zero=foo t.img 4M
qemu-img create -f vhdx t.img 64T
qemu-img create -f vhdx t.img 65T
qemu-img create -f vhdx t.img 33G
qemu-img info -f vhdx t.img
qemu-img convert -f vhdx -O vhdx -o subformat=fixed t.img o.img
qemu-img check -r all -f vhdx t.img

qemu-img create -f parallels -o cluster_size=64k t.img 4M
qemu-img info -f parallels t.img
qemu-img create -f parallels -o cluster_size=1000 t.img 4M
qemu-img create -f parallels -o cluster_size=511 t.img 4M
qemu-img create -f parallels -o cluster_size=foo t.img 4M
qemu-img create -f parallels -o cluster_size=4G t.img 4M
qemu-img create -f parallels -o cluster_size=64M t.img 4M
qemu-img create -f parallels -o cluster_size=1T t.img 4M
qemu-img create -f parallels t.img 3T
qemu-img info --image-opts driver=parallels,file.filename=t.img,prealloc-size=1M
qemu-img info --image-opts driver=parallels,file.filename=t.img,prealloc-mode=truncate
qemu-img info --image-opts driver=parallels,file.filename=t.img,prealloc-mode=falloc
qemu-img info --image-opts driver=parallels,file.filename=t.img,prealloc-size=foo
qemu-img info --image-opts driver=parallels,file.filename=t.img,prealloc-size=1M,prealloc-mode=falloc

qemu-img create -f qed -o cluster_size=64k t.img 4M
qemu-img info -f qed t.img
qemu-img create -f qed -o cluster_size=4k t.img 4M
qemu-img create -f qed -o cluster_size=2k t.img 4M
qemu-img create -f qed -o cluster_size=128M t.img 4M
qemu-img create -f qed -o cluster_size=foo t.img 4M
qemu-img create -f qed -o cluster_size=5000 t.img 4M
qemu-img create -f qed -o table_size=1 t.img 4M
qemu-img create -f qed -o table_size=16 t.img 4M
qemu-img create -f qed -o table_size=3 t.img 4M
qemu-img create -f qed -o table_size=32 t.img 4M
qemu-img create -f qed -o table_size=0 t.img 4M
qemu-img create -f qed -o table_size=foo t.img 4M
qemu-img create -f qed -o cluster_size=4k,table_size=1 t.img 16T
qemu-img create -f qed -o cluster_size=4k,table_size=1 t.img 1T
qemu-img create -f qed -u -b foo t.img 4M
qemu-img create -f qed -u -b foo -F raw t.img 4M
qemu-img info -f qed t.img
qemu-img create -f qed -u -b foo -F qcow2 t.img 4M
qemu-img info -f qed t.img

qemu-img create -f qcow -o encryption=on t.img 4M
qemu-img create -f qcow -o encryption=off t.img 4M
qemu-img create -f qcow -o encrypt.format=aes t.img 4M
qemu-img create -f qcow -o encrypt.format=luks t.img 4M
qemu-img create -f qcow SECRET -o encrypt.format=aes,encrypt.key-secret=s t.img 4M
qemu-img info -f qcow t.img
qemu-img map t.img
qemu-img map SECRET --image-opts driver=qcow,file.filename=t.img,encrypt.key-secret=s
qemu-img convert SECRET --image-opts driver=qcow,file.filename=t.img,encrypt.key-secret=s o.raw
qemu-img convert SECRET -O qcow -o encrypt.format=aes,encrypt.key-secret=s o.raw o.img
qemu-img convert -c SECRET -O qcow -o encrypt.format=aes,encrypt.key-secret=s o.raw o.img
qemu-img create -f qcow t.img 4G
qemu-img create -f qcow -u -b foo -F raw t.img 4M
qemu-img info -f qcow t.img

@io raw t.img 4M 'write -P 1 0 64k' 'write -P 2 2M 64k'
qemu-img info --image-opts driver=raw,file.filename=t.img,offset=1M
qemu-img info --image-opts driver=raw,file.filename=t.img,offset=1M,size=1M
qemu-img map --output=json --image-opts driver=raw,file.filename=t.img,offset=1M,size=2M
qemu-img info --image-opts driver=raw,file.filename=t.img,offset=1M,size=4M
qemu-img info --image-opts driver=raw,file.filename=t.img,offset=5M
qemu-img info --image-opts driver=raw,file.filename=t.img,offset=100,size=512
qemu-img info --image-opts driver=raw,file.filename=t.img,size=100
qemu-img info --image-opts driver=raw,file.filename=t.img,size=foo
qemu-img info --image-opts driver=raw,file.filename=t.img,offset=-1
qemu-img info 'json:{"driver":"raw","offset":1048576,"size":1048576,"file":{"driver":"file","filename":"t.img"}}'
qemu-img convert --image-opts -O raw driver=raw,file.filename=t.img,offset=1M,size=2M o.raw
qemu-img info o.raw
qemu-img resize --image-opts driver=raw,file.filename=t.img,offset=1M,size=1M 2M
qemu-img info --image-opts driver=file,filename=t.img
qemu-img info file:t.img
qemu-img info file://t.img
qemu-img info -f raw 'file:t.img'
qemu-img resize -f raw file:t.img 5M
qemu-img convert file:t.img file:o.raw
qemu-img convert t.img o.raw/x
qemu-img convert t.img o.raw o2.raw o3.raw
qemu-img info o3.raw
qemu-img compare t.img o.raw
qemu-img compare -F foo t.img o.raw
"""
