use model::a64::{decode, Op};
use std::io::{Write,BufRead};
fn main(){
    let mut args=std::env::args(); args.next(); let dir=args.next().unwrap(); let n: usize=args.next().unwrap().parse().unwrap();
    let mut rng=fastrand::Rng::with_seed(n as u64);
    let mut words=Vec::new();
    while words.len()<n {
        let mut w=rng.u32(..);
        let g=(w>>25)&15; if !matches!(g,8|9|10|11|4|12|5|13) {continue}
        if matches!(g,4|12) && w>>26&1==1 {continue}
        if rng.bool() { w |= 0x1f<<16 } if rng.bool(){ w|=0x1f<<10 } if rng.bool(){w&= !0xfc00} if rng.bool(){w&= !0x1f0000} if g==10||g==11 {if rng.bool(){ w|=31} if rng.bool() {w&=0xf8ffffff; w|=0xd4000000|(rng.u32(0..3)<<24) } if rng.bool() {w&= !(7<<21)} if rng.bool(){w&= !0x1f}}
        words.push(w);
    }
    std::fs::write(format!("{dir}/words.bin"), words.iter().flat_map(|w|w.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    let sh=|c:&str|{ let o=std::process::Command::new("sh").arg("-c").arg(c).output().unwrap(); assert!(o.status.success(),"{}",String::from_utf8_lossy(&o.stderr)); o.stdout};
    sh(&format!("cd {dir} && aarch64-linux-gnu-objcopy -I binary -O elf64-littleaarch64 -B aarch64 --rename-section .data=.text,code words.bin words.o && aarch64-linux-gnu-strip --strip-all words.o"));
    let out=sh(&format!("llvm-objdump -D --no-leading-addr --mattr=+v8.4a,+lse,+rcpc,+rcpc-immo,+crc,+lor,+flagm,-pauth,-fp-armv8,-neon {dir}/words.o"));
    let mut i=0; let mut m=std::collections::BTreeMap::<(bool,String),(u64,String)>::new();
    for l in out.lines(){ let l=l.unwrap(); let mut t=l.trim().splitn(2,|c:char|c=='\t'); let Some(h)=t.next() else{continue}; let h=h.trim(); let hex:String=h.split_whitespace().collect::<Vec<_>>().join("");
        if hex.len()!=8 || u32::from_str_radix(&hex,16).is_err() {continue}
        let w=u32::from_str_radix(&hex,16).unwrap(); assert_eq!(w,words[i]); i+=1;
        let text=t.next().unwrap_or("").trim().to_string(); let known=text!="<unknown>" && !text.is_empty();
        let ours=!matches!(decode(w),Op::Unknown(_));
        if ours!=known { let mn=if known {text.split_whitespace().next().unwrap().to_string()} else {let d=format!("{:?}",decode(w)); d.split(' ').next().unwrap().to_string()}; let e=m.entry((ours,mn)).or_insert((0,String::new())); e.0+=1; if e.1.len()<150 {e.1+=&format!("{w:08x} {text} ; ");} }
    }
    println!("{i} words"); for (k,v) in m {println!("{k:?} {v:?}");}
    std::io::stdout().flush().unwrap();
}
