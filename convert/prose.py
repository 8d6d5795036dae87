"""A text of our own in English and Chinese, on which levels are compared: astronomy, as the models are for.

Written for this purpose; it is part of no training file of ours.
"""

from __future__ import annotations

PROSE = {
    "en": """\
On a clear night far from any town, a patient observer can follow the slow turning of the whole sky around the pole.
The ancients took this for the motion of a crystal sphere; we know that it is the Earth itself that turns, once in
twenty-three hours and fifty-six minutes. The four minutes that are missing to a full day add up. Each evening a given
star rises a little earlier, and after a year the same constellations return to the same hour.

Colour is the first thing that tells stars apart. Betelgeuse glows like an ember because its surface is only some
3,500 degrees hot, while Rigel, at the other corner of Orion, is three times hotter and shines with a bluish light.
A spectrum says far more than colour does: dark lines reveal which elements absorb the light, their shift shows whether
the star approaches or recedes, and their width betrays how fast it spins. From such lines Cecilia Payne concluded in
1925 that stars are made almost entirely of hydrogen and helium, a result that her examiner at first refused to believe.

How far away is all this? For the nearest stars we use the Earth's own orbit as a baseline and measure a tiny parallax.
Beyond that we need lamps of known brightness, such as the pulsating Cepheids, whose period gives away their power.
With them Edwin Hubble proved that the spiral in Andromeda lies well outside the Milky Way.
""",
    "zh": """\
在远离城市灯光的山顶上，夏夜的银河像一条淡淡的光带横贯天空。用一架小小的双筒望远镜看去，这条光带便化作无数颗暗弱的恒星，
还有夹在其间的星团和暗云。我们自己就住在这个巨大的盘状星系里，离它的中心大约两万六千光年，
绕行一周需要两亿多年；上一次太阳走到今天的位置时，恐龙才刚刚出现在地球上。

恒星并不是永恒不变的。一团冷而稠密的气体在自身引力下收缩，温度越来越高，直到中心的氢开始聚变成氦，一颗新的恒星便诞生了。
质量越大的恒星燃烧得越快：太阳可以稳定地发光约一百亿年，而比它重二十倍的恒星只能维持不到一千万年。
燃料耗尽以后，小质量的恒星抛出外层，留下一颗白矮星；大质量的恒星则以超新星的形式爆发，把铁、氧、钙等元素撒向太空，
中心剩下中子星或者黑洞。我们血液里的铁，正是这样在某颗早已死去的恒星内部炼成的。

观测手段的进步常常带来意料之外的发现。射电望远镜让人们听到了脉冲星规律的信号，空间望远镜看到了宇宙早期的星系，
而引力波探测器则记录下两个黑洞并合时时空本身的颤动。也许下一次改变我们看法的，仍将是一种全新的眼睛。
""",
}
